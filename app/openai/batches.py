"""Batches as OpenAI's clients ask for them and see them."""

from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from app.jobs.bodies import Body, LabelName, LabelValue, NonEmpty
from app.jobs.document import Document
from app.openai.bodies import Given
from app.openai.files import ExpiryBody

Endpoint = Literal["/v1/chat/completions", "/v1/completions"]


class BatchBody(Given):
    """POST /v1/batches."""

    input_file_id: NonEmpty = Field(description="A file with the purpose batch.")
    endpoint: Endpoint
    completion_window: Literal["24h"]
    metadata: dict[LabelName, LabelValue] = Field({}, max_length=16)
    output_expires_after: ExpiryBody | None = None


class _NamedBody(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True)

    model: NonEmpty


class LineBody(Body):
    """A line of a batch, as far as it must be right for the whole file to be one."""

    custom_id: Annotated[NonEmpty, Field(max_length=512)]
    method: Literal["POST"]
    url: str
    body: _NamedBody


class BatchProblem(Document):
    """What is wrong with the input."""

    code: str
    message: str
    param: str | None
    line: int | None


class BatchProblems(Document):
    """All of it that was found before the reading stopped."""

    object: Literal["list"] = "list"
    data: list[BatchProblem]


class RequestCounts(Document):
    """How many lines there are, and what became of them so far."""

    total: int
    completed: int
    failed: int


class _CachedTokens(Document):
    cached_tokens: int = 0


class _ReasoningTokens(Document):
    reasoning_tokens: int = 0


class BatchUsage(Document):
    """Tokens of the lines that have ended."""

    input_tokens: int
    input_tokens_details: _CachedTokens = _CachedTokens()
    output_tokens: int
    output_tokens_details: _ReasoningTokens = _ReasoningTokens()
    total_tokens: int


class BatchObject(Document):
    """One batch; moments are seconds since 1970. ``waiting_for`` is ours: the account's credit does
    not cover the next lines.
    """

    id: str
    object: Literal["batch"] = "batch"
    endpoint: str
    model: str | None
    errors: BatchProblems | None
    input_file_id: str
    completion_window: Literal["24h"] = "24h"
    status: Literal[
        "validating",
        "failed",
        "in_progress",
        "finalizing",
        "completed",
        "expired",
        "cancelling",
        "cancelled",
    ]
    output_file_id: str | None
    error_file_id: str | None
    created_at: int
    in_progress_at: int | None
    expires_at: int
    finalizing_at: int | None
    completed_at: int | None
    failed_at: int | None
    expired_at: int | None
    cancelling_at: int | None
    cancelled_at: int | None
    request_counts: RequestCounts
    usage: BatchUsage
    metadata: dict[str, str]
    waiting_for: Literal["credit"] | None


def batch_id(unique: UUID) -> str:
    """As OpenAI's ids look."""
    return f"batch_{unique.hex}"


def output_line(
    *, line_id: str, custom_id: str, response: dict[str, Any] | None, error: dict[str, str] | None
) -> dict[str, Any]:
    """A line of an output or error file: an answer, or why there is none."""
    return {"id": line_id, "custom_id": custom_id, "response": response, "error": error}
