"""POST /v1/completions."""

from flask import Blueprint, Response

from app.accounts.principal import Principal
from app.api.openai import calls, streams
from app.api.openai.streams import CompletionChunks
from app.api.operations import COMPATIBLE, operation
from app.api.refusals import CALL_ERRORS, CALL_HEADERS
from app.openai import answers
from app.openai.answers import Completion
from app.openai.bodies import CompletionBody
from app.openai.jobs import completion_job

blueprint = Blueprint("openai_completions", __name__, url_prefix=COMPATIBLE)


@operation(
    blueprint,
    "POST",
    "/completions",
    body=CompletionBody,
    answer=Completion,
    streams=True,
    headers=CALL_HEADERS,
    errors=CALL_ERRORS,
)
def create_completion(principal: Principal, body: CompletionBody) -> Response:
    """Submit a text that the model continues as it stands, and wait for it or stream it."""
    call = calls.submit(principal, "complete", completion_job(body), choices=body.n, text="prompt")
    top = body.logprobs or 0
    if body.stream:
        return streams.response(call, CompletionChunks(top=top, usage=body.includes_usage))
    with call.held():
        jobs = call.wait()
    return streams.whole(answers.completion(jobs, top=top), jobs)
