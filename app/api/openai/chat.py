"""POST /v1/chat/completions."""

from flask import Blueprint, Response

from app.accounts.principal import Principal
from app.api.openai import calls, streams
from app.api.openai.streams import ChatChunks
from app.api.operations import COMPATIBLE, operation
from app.api.refusals import CALL_ERRORS, CALL_HEADERS
from app.openai import answers
from app.openai.answers import ChatCompletion
from app.openai.bodies import ChatCompletionBody
from app.openai.jobs import chat_job

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
    call = calls.submit(principal, "chat", chat_job(body), choices=body.n, text="messages")
    if body.stream:
        chunks = ChatChunks(top=body.top_logprobs, usage=body.includes_usage)
        return streams.response(call, chunks)
    with call.held():
        jobs = call.wait()
    return streams.whole(answers.chat_completion(jobs, top=body.top_logprobs), jobs)
