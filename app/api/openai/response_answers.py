"""A response: a job of OpenAI's Responses API, however far it has come."""

from typing import Any, Literal
from uuid import UUID

from pydantic import Field

from app import errors
from app.jobs.asked import Asked
from app.jobs.document import Document, JobDocument
from app.openai.answers import created, text_of
from app.openai.logprobs import TokenLogprob, of_chat

RESPONSE = "response"  # in a job's parameters: what is only of this API

Status = Literal["queued", "in_progress", "completed", "incomplete", "failed", "cancelled"]


class OutputText(Document):
    """What was written."""

    type: Literal["output_text"] = "output_text"
    text: str
    annotations: list[Any] = Field([])
    logprobs: list[TokenLogprob] = Field([])


class OutputMessage(Document):
    """The one message of a response."""

    id: str
    type: Literal["message"] = "message"
    role: Literal["assistant"] = "assistant"
    status: Literal["in_progress", "completed", "incomplete"]
    content: list[OutputText]


class InputTokensDetails(Document):
    """Not told apart here."""

    cached_tokens: int = 0
    cache_write_tokens: int = 0


class OutputTokensDetails(Document):
    """Not told apart here."""

    reasoning_tokens: int = 0


class ResponseUsage(Document):
    """Tokens read and written."""

    input_tokens: int
    input_tokens_details: InputTokensDetails = InputTokensDetails()
    output_tokens: int
    output_tokens_details: OutputTokensDetails = OutputTokensDetails()
    total_tokens: int


class ResponseError(Document):
    """Why it failed."""

    code: Literal["server_error", "invalid_prompt"]
    message: str


class IncompleteDetails(Document):
    """Why it is not complete."""

    reason: Literal["max_output_tokens"]


class ResponseDocument(Document):
    """A response; its id is its job's."""

    id: str
    object: Literal["response"] = "response"
    created_at: int
    completed_at: int | None
    status: Status
    background: bool
    model: str
    instructions: str | None
    previous_response_id: str | None
    output: list[OutputMessage]
    usage: ResponseUsage | None
    error: ResponseError | None
    incomplete_details: IncompleteDetails | None
    max_output_tokens: int
    temperature: float
    top_p: float
    text: dict[str, Any]
    metadata: dict[str, str]
    parallel_tool_calls: bool = True
    tool_choice: Literal["auto"] = "auto"
    tools: list[Any] = Field([])
    truncation: Literal["disabled"] = "disabled"
    store: bool = True


class DeletedResponse(Document):
    """Its texts are deleted."""

    id: str
    object: Literal["response"] = "response"
    deleted: Literal[True] = True


def response(job: JobDocument, asked: Asked) -> ResponseDocument:
    """The job as a response; raises ResponseNotFound if it was not made as one."""
    own = asked.parameters.get(RESPONSE)
    if own is None:
        raise errors.ResponseNotFound
    return ResponseDocument(
        id=response_id(job.id),
        created_at=created(job),
        completed_at=int(job.finished.timestamp()) if job.finished else None,
        status=_status(job),
        background=own["background"],
        model=job.model,
        instructions=asked.messages[0]["content"] if own["instructions"] else None,
        previous_response_id=own["previous"],
        output=[_message(job, own["top_logprobs"])] if _has_text(job) else [],
        usage=_usage(job),
        error=_error(job),
        incomplete_details=IncompleteDetails(reason="max_output_tokens") if _is_cut(job) else None,
        max_output_tokens=asked.parameters["max_tokens"],
        temperature=asked.parameters["temperature"],
        top_p=asked.parameters["top_p"],
        text=own["text"],
        metadata=job.metadata,
    )


def response_id(job_id: UUID) -> str:
    """As OpenAI's ids look; the rest is the job's."""
    return f"resp_{job_id.hex}"


def message_id(job_id: UUID) -> str:
    """The same for the message in it."""
    return f"msg_{job_id.hex}"


def job_id(text: str) -> UUID:
    """The job of a response; raises ResponseNotFound where the id is none of ours."""
    try:
        return UUID(text.removeprefix("resp_"))
    except ValueError:
        raise errors.ResponseNotFound from None


def _status(job: JobDocument) -> Status:
    if job.status == "succeeded":
        return "incomplete" if _is_cut(job) else "completed"
    known: dict[str, Status] = {
        "queued": "queued",
        "running": "in_progress",
        "cancelled": "cancelled",
    }
    return known.get(job.status, "failed")


def _is_cut(job: JobDocument) -> bool:
    return (
        job.status == "succeeded"
        and job.output is not None
        and (job.output.finish_reason == "length")
    )


def _has_text(job: JobDocument) -> bool:
    return job.output is not None and job.output.text is not None


def _message(job: JobDocument, top: int) -> OutputMessage:
    logprobs = of_chat(job, top)
    text = OutputText(text=text_of(job), logprobs=logprobs.content if logprobs else [])
    done = job.status == "succeeded" and not _is_cut(job)
    return OutputMessage(
        id=message_id(job.id), status="completed" if done else "incomplete", content=[text]
    )


def _usage(job: JobDocument) -> ResponseUsage | None:
    if job.usage is None:
        return None
    return ResponseUsage(
        input_tokens=job.usage.prompt_tokens,
        output_tokens=job.usage.completion_tokens,
        total_tokens=job.usage.total_tokens,
    )


def _error(job: JobDocument) -> ResponseError | None:
    if job.status not in {"failed", "expired"}:
        return None
    known = job.error.code if job.error else "job_expired"
    wrong = {errors.ContextLengthExceeded.code, errors.InvalidRequest.code}
    message = job.error.message if job.error else "The job did not end before its deadline."
    return ResponseError(
        code="invalid_prompt" if known in wrong else "server_error", message=message
    )
