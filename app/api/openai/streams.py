"""A call's jobs as chunks, in the two forms that OpenAI's API has for them; [DONE] ends them."""

import json
import time
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from flask import Response, request
from pydantic import BaseModel

from app.api.following import Ended, Following, Text, Tick
from app.api.openai.calls import Call
from app.api.openai.merging import merged
from app.api.presence import is_gone
from app.api.sse import HEADERS, KEEP_ALIVE_SECONDS, MEDIA_TYPE
from app.errors import GPTQueueError, StreamInterrupted
from app.jobs.document import JobDocument
from app.openai import answers, errors
from app.openai.jobs import raise_failure
from app.openai.logprobs import of_chat, of_completion

JOBS_HEADER = "X-GPTQueue-Job-Ids"
CHARGED_HEADER = "X-GPTQueue-Charged-Micros"

Chunk = dict[str, Any]


class Chunks(Protocol):
    """One form of chunks."""

    usage: bool

    def head(self, job: JobDocument) -> Chunk:
        """What every chunk of the call has."""

    def opening(self, index: int) -> Chunk | None:
        """The first piece of a choice, if there is one before its text."""

    def text(self, index: int, text: str) -> Chunk:
        """The piece of a choice with this text."""

    def end(self, index: int, job: JobDocument) -> Chunk:
        """The last piece of a choice."""


class ChatChunks:
    """Those of a chat. Log-probabilities come with the last piece of a choice."""

    def __init__(self, *, top: int, usage: bool) -> None:
        self._top = top
        self.usage = usage

    def head(self, job: JobDocument) -> Chunk:
        """See Chunks."""
        return {
            "id": answers.chat_id(job),
            "object": "chat.completion.chunk",
            "created": answers.created(job),
            "model": job.model,
        }

    def opening(self, index: int) -> Chunk | None:
        """See Chunks."""
        return _choice(index, delta={"role": "assistant", "content": ""})

    def text(self, index: int, text: str) -> Chunk:
        """See Chunks."""
        return _choice(index, delta={"content": text})

    def end(self, index: int, job: JobDocument) -> Chunk:
        """See Chunks."""
        logprobs = _json(of_chat(job, self._top))
        return _choice(index, answers.reason_of(job), delta={}, logprobs=logprobs)


class CompletionChunks:
    """Those of a text that goes on."""

    def __init__(self, *, top: int, usage: bool) -> None:
        self._top = top
        self.usage = usage

    def head(self, job: JobDocument) -> Chunk:
        """See Chunks."""
        return {
            "id": answers.completion_id(job),
            "object": "text_completion",
            "created": answers.created(job),
            "model": job.model,
        }

    def opening(self, index: int) -> Chunk | None:
        """See Chunks."""
        return None

    def text(self, index: int, text: str) -> Chunk:
        """See Chunks."""
        return _choice(index, text=text)

    def end(self, index: int, job: JobDocument) -> Chunk:
        """See Chunks."""
        logprobs = _json(of_completion(job, self._top))
        return _choice(index, answers.reason_of(job), text="", logprobs=logprobs)


def whole(answer: BaseModel, jobs: Sequence[JobDocument]) -> Response:
    """An answer that is not streamed."""
    charged = sum(job.charge.charged_micros for job in jobs)
    headers = {**ids_header(jobs), CHARGED_HEADER: str(charged)}
    return Response(answer.model_dump_json(), headers=headers, mimetype="application/json")


def response(call: Call, chunks: Chunks) -> Response:
    """The call as a stream."""
    with call.held():
        jobs = [call.services.reader.read(call.account_id, job_id) for job_id in call.job_ids]
    followed = [Following(call.services, call.account_id, job) for job in jobs]
    lines = _lines(followed, chunks, chunks.head(jobs[0]))
    return call_stream(call, lines, jobs=jobs, environ=request.environ)


def call_stream(
    call: Call | None,
    lines: Iterator[str],
    *,
    jobs: Sequence[JobDocument],
    environ: dict[str, Any],
) -> Response:
    """These lines, of which empty ones say that nothing happened; if the client leaves, the jobs of
    the call end.
    """
    headers = {**HEADERS, **ids_header(jobs)}
    return Response(_watched(call, lines, environ), mimetype=MEDIA_TYPE, headers=headers)


def ids_header(jobs: Sequence[JobDocument]) -> dict[str, str]:
    """Which jobs an answer comes from."""
    return {JOBS_HEADER: ",".join(str(job.id) for job in jobs)}


def _watched(call: Call | None, lines: Iterator[str], environ: dict[str, Any]) -> Iterator[str]:
    """The lines, without the empty ones; if the client leaves before the last, the jobs end."""
    said_at = time.monotonic()
    done = False
    try:
        for line in lines:
            if is_gone(environ):
                return
            if line or time.monotonic() >= said_at + KEEP_ALIVE_SECONDS:
                said_at = time.monotonic()
                yield line or ":\n\n"
        done = True
    except GPTQueueError as error:
        # Of several choices the others are wanted no more; a job that says something else than
        # before can still be read.
        done = isinstance(error, StreamInterrupted)
        yield _line(errors.envelope(error).model_dump())
    finally:
        if not done and call is not None:
            call.abandon()


def _lines(followed: Sequence[Following], chunks: Chunks, head: Chunk) -> Iterator[str]:
    """Chunks as lines, an empty one where nothing happened for a while."""
    empty = {"usage": None} if chunks.usage else {}
    ended: list[JobDocument] = []
    told = [Told() for _ in followed]
    for index in range(len(followed)):
        if first := chunks.opening(index):
            yield _line({**head, "choices": [first], **empty})
    for index, event in merged(followed):
        match event:
            case Text():
                fresh = told[index].take(event)
                if fresh:
                    yield _line({**head, "choices": [chunks.text(index, fresh)], **empty})
            case Ended(job):
                raise_failure(job)
                told[index].check(answers.text_of(job))
                ended.append(job)
                yield _line({**head, "choices": [chunks.end(index, job)], **empty})
            case Tick():
                yield ""
    if chunks.usage:
        usage = answers.usage(ended).model_dump()
        yield _line({**head, "choices": [], "usage": usage})
    yield "data: [DONE]\n\n"


class Told:
    """What a client has read of a choice, which cannot be taken back when a job begins again."""

    def __init__(self) -> None:
        self._attempt = 0
        self._said = ""  # to the client
        self._again = ""  # by this attempt

    def take(self, event: Text) -> str:
        """What is new of it; raises StreamInterrupted if it contradicts what was said."""
        if event.attempt != self._attempt:
            self._attempt, self._again = event.attempt, ""
        self._again += event.text
        if self._said.startswith(self._again):
            return ""
        if not self._again.startswith(self._said):
            raise StreamInterrupted
        fresh = self._again[len(self._said) :]
        self._said = self._again
        return fresh

    def check(self, text: str) -> None:
        """Raise StreamInterrupted if that is not what was said: the last attempt said less."""
        if self._said != text:
            raise StreamInterrupted


def _choice(index: int, reason: str | None = None, **piece: Any) -> Chunk:
    return {"index": index, **piece, "finish_reason": reason}


def _json(model: BaseModel | None) -> Any:
    return None if model is None else model.model_dump()


def _line(chunk: Chunk) -> str:
    return f"data: {json.dumps(chunk)}\n\n"
