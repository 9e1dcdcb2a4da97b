"""A line of a batch -> a draft of its job."""

from datetime import datetime
from typing import Generic, TypeVar

from pydantic import ValidationError

from app.batches.tables import Batch, BatchLine
from app.catalog import Catalog
from app.config import Settings
from app.errors import InvalidRequest
from app.jobs.bodies import Body, JobBody
from app.jobs.drafts import draft
from app.jobs.submit import Draft
from app.openai.batches import batch_id
from app.openai.bodies import CallBody, ChatCompletionBody, CompletionBody
from app.openai.jobs import chat_job, completion_job
from app.validation import refusal

PRIORITY = -50  # behind whatever somebody waits for
# What the batch itself says, or a call alone can have.
_NOT_IN_A_BATCH = ("stream", "stream_options", "n", "priority", "deadline_seconds", "webhook_url")

Asked = TypeVar("Asked", bound=CallBody)


class _Line(Body, Generic[Asked]):
    custom_id: str
    method: str
    url: str
    body: Asked


_LINES: dict[str, type[_Line[ChatCompletionBody]] | type[_Line[CompletionBody]]] = {
    "/v1/chat/completions": _Line[ChatCompletionBody],
    "/v1/completions": _Line[CompletionBody],
}


def call_of(batch: Batch, text: bytes) -> ChatCompletionBody | CompletionBody:
    """What the line asks for; raises InvalidRequest."""
    kind = _LINES[batch.endpoint]
    try:
        return kind.model_validate_json(text.removeprefix(b"\xef\xbb\xbf")).body
    except ValidationError as error:
        raise _in_the_body(refusal(error, kind)) from None


def request_id(batch: Batch, line: BatchLine) -> str:
    """What stands for the line in logs, and in its answer."""
    return f"{batch_id(batch.id)}:{line.number}"


def draft_of(
    batch: Batch,
    line: BatchLine,
    text: bytes,
    *,
    now: datetime,
    catalog: Catalog,
    settings: Settings,
) -> Draft:
    """The line's job; raises what a submit of it would raise, but InsufficientCredit."""
    asked = call_of(batch, text)
    _check(asked)
    seconds_left = int((batch.expires_at - now).total_seconds())
    kind, body = _job(asked)
    return draft(
        catalog,
        settings,
        account_id=batch.account_id,
        kind=kind,
        body=body.model_copy(
            update={"priority": PRIORITY, "deadline_seconds": max(1, seconds_left)}
        ),
        request_id=request_id(batch, line),
        idempotency=None,
        of_a_batch=True,
    )


def _job(asked: ChatCompletionBody | CompletionBody) -> tuple[str, JobBody]:
    if isinstance(asked, ChatCompletionBody):
        return "chat", chat_job(asked)
    return "complete", completion_job(asked)


def _check(asked: CallBody) -> None:
    defaults = type(asked).model_fields
    wrong = [
        {"field": name, "message": "this parameter is not supported in a batch"}
        for name in _NOT_IN_A_BATCH
        if getattr(asked, name) != defaults[name].default
    ]
    if wrong:
        raise InvalidRequest(f"{wrong[0]['field']}: {wrong[0]['message']}", errors=wrong)


def _in_the_body(refused: Exception) -> InvalidRequest:
    """The same, with fields as they are in a call of its own."""
    assert isinstance(refused, InvalidRequest)
    wrong = refused.details["errors"]
    assert isinstance(wrong, list)
    problems = [{**each, "field": each["field"].removeprefix("body.")} for each in wrong]
    said = "; ".join(f"{each['field']}: {each['message']}" for each in problems[:3])
    return InvalidRequest(said, errors=problems)
