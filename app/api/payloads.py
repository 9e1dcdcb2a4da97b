"""What clients send and what lists answer: the models that validate, and the OpenAPI document."""

import json
from datetime import date
from typing import Annotated, Any, Literal, Self
from uuid import UUID

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from app.jobs.document import Document, JobDocument, Moment


def _no_nul(text: str) -> str:
    if "\x00" in text:
        raise ValueError("contains the character NUL, which cannot be stored")
    return text


def _small(labels: dict[str, str]) -> dict[str, str]:
    if len(json.dumps(labels, ensure_ascii=False).encode()) > _MOST_METADATA_BYTES:
        raise ValueError(f"has more than {_MOST_METADATA_BYTES} bytes as JSON")
    return labels


_MOST_METADATA_BYTES = 10_000  # a webhook repeats it, and has less than 20 kB

Text = Annotated[str, AfterValidator(_no_nul)]
NonEmpty = Annotated[Text, Field(min_length=1)]
StopString = Annotated[NonEmpty, Field(max_length=64)]
LabelName = Annotated[NonEmpty, Field(max_length=64)]
LabelValue = Annotated[Text, Field(max_length=512)]


class Body(BaseModel):
    """A request body: no unknown fields, no silent conversions."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class JobBody(Body):
    """What every kind of job can say."""

    model: NonEmpty = Field(description="One of GET /api/v1/models.")
    max_tokens: int | None = Field(
        None, ge=1, le=2**31 - 1, description="Completion tokens at most; default: the model's."
    )
    temperature: float = Field(1.0, ge=0, le=2, allow_inf_nan=False, description="0 is greedy.")
    top_p: float = Field(1.0, gt=0, le=1, allow_inf_nan=False)
    top_k: int = Field(0, ge=0, le=1000, description="0: all tokens.")
    seed: int | None = Field(
        None,
        ge=0,
        lt=2**63,
        description="The same seed gives the same text, up to rounding.",
    )
    stop: Annotated[list[StopString], Field(min_length=1, max_length=4)] | None = Field(
        None, description="1 to 4 strings; the text ends before the first that appears."
    )
    repetition_penalty: float = Field(
        1.0, ge=0.1, le=2, allow_inf_nan=False, description="Above 1: fewer repetitions."
    )
    metadata: Annotated[dict[LabelName, LabelValue], AfterValidator(_small)] = Field(
        {},
        max_length=16,
        description="Up to 16 strings of yours (10 kB at most), returned with the job.",
    )
    webhook_url: NonEmpty | None = Field(
        None, max_length=2048, description="Told when the job has ended."
    )
    priority: int = Field(
        0, ge=-100, le=100, description="Higher ones of the same model start first."
    )
    deadline_seconds: int | None = Field(
        None, ge=1, le=7 * 86_400, description="From submit; a job past it is expired."
    )

    def parameters(self) -> dict[str, Any]:
        """What the engine needs to know, as it is stored with the job."""
        return {
            "temperature": self.temperature,
            "top_p": self.top_p,
            "top_k": self.top_k,
            "seed": self.seed,
            "stop": self.stop or [],
            "repetition_penalty": self.repetition_penalty,
        }


class PromptBody(JobBody):
    """A single prompt: ``generate`` applies the chat template to it, ``complete`` does not."""

    prompt: NonEmpty


class MessageBody(Body):
    """One turn."""

    role: Literal["system", "user", "assistant"]
    content: NonEmpty


class ChatBody(JobBody):
    """A chat: the model answers the last message."""

    messages: list[MessageBody] = Field(min_length=1, max_length=1000)


class JobsQuery(BaseModel):
    """Which jobs to list, newest first."""

    model_config = ConfigDict(extra="forbid")

    status: Literal["queued", "running", "succeeded", "failed", "cancelled", "expired"] | None = (
        None
    )
    model: Text | None = None
    after: UUID | None = Field(None, description='"next" of the page before.')
    limit: int = Field(20, ge=1, le=100)


class JobsDocument(Document):
    """A page of jobs; pass ``next`` as ``after`` for the following one."""

    data: list[JobDocument]
    has_more: bool
    next: UUID | None


Day = Annotated[date, Field(ge=date(2000, 1, 1), le=date(2999, 12, 31))]


class UsageQuery(BaseModel):
    """Which days (UTC), both included; the last thirty by default."""

    model_config = ConfigDict(extra="forbid")

    since: Day | None = Field(None, alias="from")
    until: Day | None = Field(None, alias="to")

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.since and self.until and self.since > self.until:
            raise ValueError("from is after to")
        return self


class UsageDayDocument(Document):
    """One model on one day: jobs that ended, and what they used and cost."""

    date: date
    model: str
    requests: int
    prompt_tokens: int
    completion_tokens: int
    charged_micros: int


class UsageTotalDocument(Document):
    """The sum of the days."""

    requests: int
    prompt_tokens: int
    completion_tokens: int
    charged_micros: int


class BalanceDocument(Document):
    """The account's credit now: what new jobs may hold, and what running ones hold."""

    available_micros: int
    held_micros: int


class UsageReport(Document):
    """What an account used, by day and model, and its balance."""

    currency: str
    data: list[UsageDayDocument]
    total: UsageTotalDocument
    balance: BalanceDocument


class ModelDocument(Document):
    """A served model; prices are micro-USD per million tokens."""

    name: str
    description: str
    version: str
    context_length: int
    default_max_tokens: int
    input_micros_per_million_tokens: int
    output_micros_per_million_tokens: int


class ModelsDocument(Document):
    """Every model that jobs can be submitted for."""

    data: list[ModelDocument]


class SecretDocument(Document):
    """The secret that signs this account's webhooks."""

    key: str


class EndpointBody(Body):
    """Which endpoint is meant."""

    url: NonEmpty = Field(max_length=2048, description="A webhook_url, letter by letter.")


class DisabledEndpointDocument(Document):
    """A URL that nothing is sent to any more: ``gone`` answered 410, ``failing`` had no success for
    five days.
    """

    url: str
    reason: Literal["gone", "failing"]
    disabled: Moment


class DisabledEndpointsDocument(Document):
    """The disabled endpoints of the account."""

    data: list[DisabledEndpointDocument]


class HealthDocument(Document):
    """The process answers."""

    status: Literal["alive"] = "alive"


class DependencyDocument(Document):
    """Whether something the API needs answers."""

    ok: bool


class ModelStatusDocument(Document):
    """One model: messages waiting, live workers by state, and why the failed ones failed."""

    ready: bool
    queue_depth: int | None
    workers: dict[str, int]
    errors: list[str]


class StatusDocument(Document):
    """Whether jobs can be accepted (``ready``), and what serves them."""

    ready: bool
    database: DependencyDocument
    broker: DependencyDocument
    models: dict[str, ModelStatusDocument]
