"""POST /v1/chat/completions."""

from typing import Any

from flask import Blueprint, Response

from app.accounts.principal import Principal
from app.api.bodies import ChatBody, JSONSchemaBody, ResponseFormatBody
from app.api.openai import answers, calls, streams
from app.api.openai.answers import ChatCompletion
from app.api.openai.bodies import (
    ChatCompletionBody,
    JSONObjectFormatBody,
    JSONSchemaFormatBody,
)
from app.api.openai.refusals import CALL_ERRORS, CALL_HEADERS
from app.api.openai.streams import ChatChunks
from app.api.operations import COMPATIBLE, operation
from app.api.parsing import made

blueprint = Blueprint("openai_chat", __name__, url_prefix=COMPATIBLE)


@operation(
    blueprint,
    "POST",
    "/chat/completions",
    body=ChatCompletionBody,
    answer=ChatCompletion,
    streams=True,
    headers=CALL_HEADERS,
    errors=CALL_ERRORS,
)
def create_chat_completion(principal: Principal, body: ChatCompletionBody) -> Response:
    """Submit a chat and wait for the answer, or stream it (server-sent events, up to [DONE])."""
    call = calls.submit(principal, "chat", as_job(body), choices=body.n)
    if body.stream:
        chunks = ChatChunks(top=body.top_logprobs, usage=body.includes_usage)
        return streams.response(call, chunks)
    jobs = call.wait()
    return streams.whole(answers.chat_completion(jobs, top=body.top_logprobs), jobs)


def as_job(body: ChatCompletionBody) -> ChatBody:
    """The same as a job of the native API."""
    fields = {
        **calls.common(body),
        "max_tokens": body.max_completion_tokens or body.max_tokens,
        "logprobs": body.logprobs,
        "response_format": _format(body.response_format),
        "metadata": _metadata(body),
        "messages": [each.as_message() for each in body.messages],
    }
    return made(ChatBody, fields)


def _format(wanted: Any) -> ResponseFormatBody | None:
    match wanted:
        case JSONSchemaFormatBody():
            return ResponseFormatBody(type="json_schema", json_schema=wanted.json_schema)
        case JSONObjectFormatBody():
            anything = JSONSchemaBody(schema={"type": "object"})
            return ResponseFormatBody(type="json_schema", json_schema=anything)
        case _:
            return None


def _metadata(body: ChatCompletionBody) -> dict[str, str]:
    said = {"user": body.user, "safety_identifier": body.safety_identifier}
    return {**{name: each for name, each in said.items() if each}, **body.metadata}
