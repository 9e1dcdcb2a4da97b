"""What OpenAI's clients ask for, as jobs of ours, and what such a job comes to."""

from typing import Any

from app import errors
from app.jobs.bodies import (
    ChatBody,
    JSONSchemaBody,
    PromptBody,
    ResponseFormatBody,
)
from app.jobs.document import JobDocument
from app.openai.bodies import (
    CallBody,
    ChatCompletionBody,
    CompletionBody,
    JSONObjectFormatBody,
    JSONSchemaFormatBody,
)
from app.validation import made


def chat_job(body: ChatCompletionBody) -> ChatBody:
    """The same as a job of the native API."""
    fields = {
        **common(body),
        "max_tokens": body.max_completion_tokens or body.max_tokens,
        "logprobs": body.logprobs,
        "response_format": _format(body.response_format),
        "metadata": labels(body.metadata, user=body.user, safety_identifier=body.safety_identifier),
        "messages": [each.as_message() for each in body.messages],
    }
    return made(ChatBody, fields)


def completion_job(body: CompletionBody) -> PromptBody:
    """The same as a job of the native API."""
    fields = {
        **common(body),
        "max_tokens": body.max_tokens,
        "logprobs": body.logprobs is not None,
        "metadata": labels({}, user=body.user),
        "prompt": body.text,
    }
    return made(PromptBody, fields)


def raise_failure(job: JobDocument) -> None:
    """Raise what went wrong with a job that has ended, if something did."""
    if job.status == "succeeded":
        return
    if job.status == "cancelled":
        raise errors.JobCancelled(f"The job {job.id} was cancelled.")
    if job.status == "expired":
        raise errors.JobExpired(f"The job {job.id} did not end before its deadline.")
    assert job.error is not None
    known = {each.code: each for each in (errors.ContextLengthExceeded, errors.InvalidRequest)}
    failure = known.get(job.error.code, errors.JobFailed)
    raise failure(f"The job {job.id} failed: {job.error.message}")


def common(body: CallBody) -> dict[str, Any]:
    """What a job of ours takes as it was sent."""
    return {
        "model": body.model,
        "temperature": body.temperature,
        "top_p": body.top_p,
        "top_k": body.top_k,
        "min_p": body.min_p,
        "seed": None if body.seed is None else body.seed % 2**63,
        "stop": body.stop,
        "stop_token_ids": body.stop_token_ids,
        "repetition_penalty": body.repetition_penalty,
        "presence_penalty": body.presence_penalty,
        "frequency_penalty": body.frequency_penalty,
        "priority": body.priority,
        "deadline_seconds": body.deadline_seconds,
        "webhook_url": body.webhook_url,
    }


def _format(wanted: Any) -> ResponseFormatBody | None:
    match wanted:
        case JSONSchemaFormatBody():
            return constrained(wanted.json_schema)
        case JSONObjectFormatBody():
            return constrained(ANY_OBJECT)
        case _:
            return None


ANY_OBJECT = JSONSchemaBody(schema={"type": "object"})


def constrained(schema: JSONSchemaBody) -> ResponseFormatBody:
    """The form of an answer that follows a schema."""
    return ResponseFormatBody(type="json_schema", json_schema=schema)


def labels(
    metadata: dict[str, str], *, user: str | None, safety_identifier: str | None = None
) -> dict[str, str]:
    """A job's metadata: the client's, and who its end user is."""
    said = {"user": user, "safety_identifier": safety_identifier}
    return {**{name: each for name, each in said.items() if each}, **metadata}
