"""/v1/responses: a chat of one answer, in the background if wanted."""

from uuid import UUID

from flask import Blueprint, Response, request

from app import errors
from app.accounts.principal import Principal
from app.api.cancelling import cancel_job
from app.api.following import Following
from app.api.openai import calls, response_streams
from app.api.openai.response_answers import (
    RESPONSE,
    DeletedResponse,
    ResponseDocument,
    job_id,
    response,
    response_id,
)
from app.api.openai.response_bodies import ResponseBody, ResponseQuery, SchemaFormatBody
from app.api.openai.streams import call_stream, ids_header
from app.api.operations import COMPATIBLE, operation
from app.api.refusals import CALL_ERRORS, CALL_HEADERS
from app.api.services import services
from app.jobs import asked as jobs_asked
from app.jobs.asked import Asked
from app.jobs.bodies import ChatBody, ResponseFormatBody
from app.jobs.document import JobDocument
from app.openai.bodies import JSONObjectFormatBody
from app.openai.jobs import ANY_OBJECT, constrained, labels
from app.validation import made

blueprint = Blueprint("openai_responses", __name__, url_prefix=COMPATIBLE)

_MISSING = (errors.ResponseNotFound,)


@operation(
    blueprint,
    "POST",
    "/responses",
    body=ResponseBody,
    answer=ResponseDocument,
    streams=True,
    headers=CALL_HEADERS,
    errors=(*CALL_ERRORS, *_MISSING),
)
def create_response(principal: Principal, body: ResponseBody) -> Response:
    """Submit a chat and wait for the answer, stream it, or with "background" read it later."""
    job = _as_job(body, _turns(principal, body))
    call = calls.submit(
        principal, "chat", job, choices=1, text="input", more={RESPONSE: _own(body)}
    )
    if body.background:
        call = call.kept()
    (unique,) = call.job_ids
    with call.held():
        if body.stream:
            return _stream(principal, unique, call=call, after=-1)
        if not body.background:
            call.wait()
        document, asked = _read(principal, unique)
    return Response(
        response(document, asked).model_dump_json(),
        headers=ids_header([document]),
        mimetype="application/json",
    )


@operation(
    blueprint,
    "GET",
    "/responses/<response>",
    query=ResponseQuery,
    answer=ResponseDocument,
    streams=True,
    errors=(*_MISSING, errors.InvalidRequest),
)
def retrieve_response(principal: Principal, response: str, query: ResponseQuery) -> Response:
    """Read a response, or stream it from any event on, also when it has ended."""
    wanted = job_id(response)
    if query.stream:
        return _stream(principal, wanted, call=None, after=query.starting_after)
    return _shown(principal, wanted)


@operation(
    blueprint,
    "POST",
    "/responses/<response>/cancel",
    answer=ResponseDocument,
    errors=_MISSING,
)
def cancel_response(principal: Principal, response: str) -> Response:
    """Cancel a response: at once while it is queued, within seconds while it runs."""
    wanted = job_id(response)
    _read(principal, wanted)
    cancel_job(services(), principal.account_id, wanted)
    return _shown(principal, wanted)


@operation(
    blueprint,
    "DELETE",
    "/responses/<response>",
    answer=DeletedResponse,
    errors=(*_MISSING, errors.JobStillRuns),
)
def delete_response(principal: Principal, response: str) -> DeletedResponse:
    """Delete what was asked and answered. The job stays, with its tokens and its charge."""
    wanted = job_id(response)
    _read(principal, wanted)
    with services().database.transaction() as session:
        jobs_asked.delete_texts(session, principal.account_id, wanted)
    return DeletedResponse(id=response_id(wanted))


def _stream(principal: Principal, wanted: UUID, *, call: calls.Call | None, after: int) -> Response:
    document, asked = _read(principal, wanted)
    following = Following(services(), principal.account_id, document)
    lines = response_streams.lines(following, asked, after)
    return call_stream(call, lines, jobs=[document], environ=request.environ)


def _shown(principal: Principal, wanted: UUID) -> Response:
    found = response(*_read(principal, wanted))
    return Response(found.model_dump_json(), mimetype="application/json")


def _read(principal: Principal, wanted: UUID) -> tuple[JobDocument, Asked]:
    """A job that is a response; raises ResponseNotFound."""
    try:
        with services().database.transaction() as session:
            asked = jobs_asked.asked(session, principal.account_id, wanted)
        document = services().reader.read(principal.account_id, wanted)
    except errors.JobNotFound:
        raise errors.ResponseNotFound from None
    if RESPONSE not in asked.parameters:
        raise errors.ResponseNotFound
    return document, asked


def _turns(principal: Principal, body: ResponseBody) -> list[dict[str, str]]:
    """The conversation up to now; the instructions of a response before are not carried over."""
    instructions = [{"role": "system", "content": body.instructions}] if body.instructions else []
    if body.previous_response_id is None:
        return [*instructions, *body.turns()]
    document, asked = _read(principal, job_id(body.previous_response_id))
    if document.status != "succeeded" or document.output is None:
        raise errors.InvalidRequest(
            "previous_response_id: this response has no answer to go on from",
            errors=[{"field": "previous_response_id", "message": "it has not succeeded"}],
        )
    before = asked.messages[1:] if asked.parameters[RESPONSE]["instructions"] else asked.messages
    answer = {"role": "assistant", "content": document.output.text or ""}
    return [*instructions, *before, answer, *body.turns()]


def _as_job(body: ResponseBody, turns: list[dict[str, str]]) -> ChatBody:
    fields = {
        "model": body.model,
        "max_tokens": body.max_output_tokens,
        "temperature": body.temperature,
        "top_p": body.top_p,
        "logprobs": body.wants_logprobs,
        "response_format": _format(body),
        "metadata": labels(body.metadata, user=body.user, safety_identifier=body.safety_identifier),
        "messages": turns,
    }
    return made(ChatBody, fields)


def _format(body: ResponseBody) -> ResponseFormatBody | None:
    match body.text.format:
        case SchemaFormatBody() as schema:
            return constrained(schema)
        case JSONObjectFormatBody():
            return constrained(ANY_OBJECT)
        case _:
            return None


def _own(body: ResponseBody) -> dict[str, object]:
    """What a response tells that its job does not."""
    form = body.text.format
    shown = form.model_dump(by_alias=True, exclude_none=True) if form else {"type": "text"}
    return {
        "background": body.background,
        "instructions": body.instructions is not None,
        "previous": body.previous_response_id,
        "top_logprobs": body.top_logprobs,
        "text": {"format": shown},
    }
