"""Output and errors, in the order of the input; and -> completed, expired or cancelled."""

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.batches.feeding import answer_of
from app.batches.requests import call_of, request_id
from app.batches.tables import Batch, BatchLine, LineState, State
from app.config import Settings
from app.errors import GPTQueueError
from app.files import storing
from app.files.reading import Reader
from app.files.tables import Purpose
from app.jobs import queries
from app.jobs.document import JobDocument
from app.jobs.queries import Result
from app.openai import answers
from app.openai.batches import batch_id, output_line
from app.openai.bodies import ChatCompletionBody
from app.openai.jobs import raise_failure

GROUP_LINES = 200
GROUP_BYTES = 1 << 20

_UNDONE = {
    State.EXPIRED: ("batch_expired", "This request was not done within the completion window."),
    State.CANCELLED: ("batch_cancelled", "The batch was cancelled before this request was done."),
}


def write(session: Session, batch: Batch, *, now: datetime, settings: Settings) -> bool:
    """Write what became of the next lines; whether there was anything to do. While others of the
    batch still run, whole groups are written; then the rest, and the batch has ended.
    """
    query = select(BatchLine).where(
        BatchLine.batch_id == batch.id, BatchLine.number > batch.written_lines
    )
    lines = session.scalars(query.order_by(BatchLine.number).limit(GROUP_LINES)).all()
    if batch.ending is None and (len(lines) < GROUP_LINES or any(map(_is_open, lines))):
        return False
    if not lines:
        _end(session, batch, now)
        return True
    ids = [line.job_id for line in lines if line.job_id is not None]
    jobs = queries.results(session, ids, base_url=settings.public_url)
    writer = _Writer(session, batch, settings)
    output, errors = [], []
    size = 0
    for line in lines:
        found = jobs.get(line.job_id) if line.job_id else None
        if found is not None and found.document.status == "succeeded":
            text = _as_text(_said(batch, line, writer.answer(line, found)))
            output.append(text)
        else:
            text = _as_text(_failed(batch, line, found.document if found else None))
            errors.append(text)
        batch.written_lines = line.number
        size += len(text)
        if size > GROUP_BYTES:
            break
    batch.output_file_id = _append(session, batch, batch.output_file_id, "output", output)
    batch.error_file_id = _append(session, batch, batch.error_file_id, "errors", errors)
    return True


def _is_open(line: BatchLine) -> bool:
    return line.state in (LineState.WAITING, LineState.RUNNING)


def _as_text(line: dict[str, Any]) -> str:
    return json.dumps(line, ensure_ascii=False) + "\n"


class _Writer:
    """What calls of their own would have been answered, with what is needed to know it."""

    def __init__(self, session: Session, batch: Batch, settings: Settings) -> None:
        self._session = session
        self._batch = batch
        self._base_url = settings.public_url
        longest = settings.max_body_bytes
        self._reader = Reader(session, batch.input_file_id, longest_line=longest)

    def answer(self, line: BatchLine, found: Result) -> dict[str, Any]:
        """The answer to a line whose job succeeded."""
        job, top = found.document, 0
        if found.lacks_logprobs:
            # One by one, as those of a group would be many megabytes.
            job, top = self._with_logprobs(job.id), self._top(line)
        make = answers.chat_completion if job.kind == "chat" else answers.completion
        return {
            "status_code": 200,
            "request_id": request_id(self._batch, line),
            "body": make([job], top=top).model_dump(),
        }

    def _with_logprobs(self, job_id: UUID) -> JobDocument:
        found = queries.results(self._session, [job_id], base_url=self._base_url, logprobs=True)
        return found[job_id].document

    def _top(self, line: BatchLine) -> int:
        """How many of the likeliest tokens are shown; that is nowhere but in the input."""
        asked = call_of(self._batch, self._reader.read(line.first_byte, line.bytes))
        return asked.top_logprobs if isinstance(asked, ChatCompletionBody) else asked.logprobs or 0


def _failed(batch: Batch, line: BatchLine, job: JobDocument | None) -> dict[str, Any]:
    if line.error is not None:
        return _said(batch, line, line.error)
    status = None if job is None else job.status
    if status == "expired":
        return _undone(batch, line, State.EXPIRED)
    if status == "cancelled" and batch.cancelling_at is not None:
        return _undone(batch, line, State.CANCELLED)
    if job is None:
        return _undone(batch, line, State(batch.ending or ""))
    try:
        raise_failure(job)
    except GPTQueueError as error:
        return _said(batch, line, answer_of(error, request_id=request_id(batch, line)))
    raise AssertionError(f"the job {job.id} has not failed")


def _said(batch: Batch, line: BatchLine, response: dict[str, Any]) -> dict[str, Any]:
    return output_line(
        line_id=_line_id(batch, line), custom_id=line.custom_id, response=response, error=None
    )


def _undone(batch: Batch, line: BatchLine, why: State) -> dict[str, Any]:
    code, message = _UNDONE[why]
    return output_line(
        line_id=_line_id(batch, line),
        custom_id=line.custom_id,
        response=None,
        error={"code": code, "message": message},
    )


def _line_id(batch: Batch, line: BatchLine) -> str:
    return f"batch_req_{batch.id.hex}_{line.number}"


def _append(
    session: Session,
    batch: Batch,
    unique: UUID | None,
    name: str,
    lines: Sequence[str],
) -> UUID | None:
    """Add lines to the file, which is made for the first of them."""
    if not lines:
        return unique
    if unique is None:
        unique = storing.begin_file(
            session, batch.account_id, Purpose.BATCH_OUTPUT, filename=_filename(batch, name)
        )
    storing.append(session, unique, "".join(lines).encode())
    return unique


def _end(session: Session, batch: Batch, now: datetime) -> None:
    for unique, name in ((batch.output_file_id, "output"), (batch.error_file_id, "errors")):
        if unique is not None:
            storing.complete(
                session,
                unique,
                filename=_filename(batch, name),
                expires_after_seconds=batch.output_expires_seconds,
            )
    assert batch.ending is not None
    batch.state = batch.ending
    setattr(batch, f"{batch.ending}_at", now)


def _filename(batch: Batch, name: str) -> str:
    return f"{batch_id(batch.id)}_{name}.jsonl"
