"""Lines become jobs: a group in each step, while not too many of the batch wait for a worker."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import BigInteger, String, Uuid, select, update
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Session

from app.batches.requests import draft_of, request_id
from app.batches.tables import Batch, BatchLine, LineState
from app.catalog import Catalog
from app.config import Settings
from app.errors import GPTQueueError
from app.files.reading import Reader
from app.jobs.submit import Draft, Submitted, submit
from app.openai import errors as openai_errors
from app.rows import given

GROUP_LINES = 200
GROUP_BYTES = 1 << 20
# So many jobs of a batch are in the queue or run: a few seconds' work of the fastest workers, and
# few enough to look through at each step.
MOST_RUNNING = 2000


@dataclass(slots=True)
class Fed:
    """What became of lines: jobs to tell workers of, and how many were refused."""

    jobs: list[tuple[str, UUID]] = field(default_factory=list)
    refused: int = 0


def feed(
    session: Session, batch: Batch, *, now: datetime, catalog: Catalog, settings: Settings
) -> Fed:
    """Make jobs of the next lines. Those that the credit does not cover are left for later."""
    reader = Reader(session, batch.input_file_id, longest_line=settings.max_body_bytes)
    drafts: dict[int, Draft] = {}
    outcomes: list[dict[str, Any]] = []
    for line, text in _texts(reader, _next(session, batch)):
        try:
            drafts[line.number] = draft_of(
                batch, line, text, now=now, catalog=catalog, settings=settings
            )
        except GPTQueueError as error:
            outcomes.append(_refused(batch, line, error))
    jobs = []
    accepted = _accepted(session, drafts)
    batch.lacks_credit = len(accepted) < len(drafts)
    for number in accepted:
        jobs.append((drafts[number].model, drafts[number].job_id))
        outcomes.append(_made(batch, number, drafts[number].job_id))
    return _note(session, batch, outcomes, jobs)


def _next(session: Session, batch: Batch) -> Sequence[BatchLine]:
    waiting = select(BatchLine).where(
        BatchLine.batch_id == batch.id, BatchLine.state == LineState.WAITING
    )
    return session.scalars(waiting.order_by(BatchLine.number).limit(GROUP_LINES)).all()


def _texts(reader: Reader, lines: Sequence[BatchLine]) -> Iterator[tuple[BatchLine, bytes]]:
    """As many as a step takes; at least one."""
    size = 0
    for line in lines:
        yield line, reader.read(line.first_byte, line.bytes)
        size += line.bytes
        if size > GROUP_BYTES:
            return


def _accepted(session: Session, drafts: Mapping[int, Draft]) -> list[int]:
    """Those that are jobs now; the credit does not cover the others."""
    answers = submit(session, list(drafts.values())) if drafts else []
    return [
        number
        for number, answer in zip(drafts, answers, strict=True)
        if isinstance(answer, Submitted)
    ]


def _made(batch: Batch, number: int, job_id: UUID) -> dict[str, Any]:
    return {
        "batch_id": batch.id,
        "number": number,
        "state": LineState.RUNNING,
        "job_id": job_id,
        "error": None,
    }


def _refused(batch: Batch, line: BatchLine, error: GPTQueueError) -> dict[str, Any]:
    return {
        "batch_id": batch.id,
        "number": line.number,
        "state": LineState.FAILED,
        "job_id": None,
        "error": answer_of(error, request_id=request_id(batch, line)),
    }


def answer_of(error: GPTQueueError, *, request_id: str) -> dict[str, Any]:
    """What a call of its own would have been answered."""
    return {
        "status_code": openai_errors.status(type(error)),
        "request_id": request_id,
        "body": openai_errors.envelope(error).model_dump(),
    }


_OUTCOMES = given(
    "outcomes", batch_id=Uuid, number=BigInteger, state=String, job_id=Uuid, error=JSONB
)
_NOTE = (
    update(BatchLine)
    .where(
        BatchLine.batch_id == _OUTCOMES.c.batch_id,
        BatchLine.number == _OUTCOMES.c.number,
        BatchLine.state == LineState.WAITING,
    )
    .values(state=_OUTCOMES.c.state, job_id=_OUTCOMES.c.job_id, error=_OUTCOMES.c.error)
    .returning(BatchLine.number)
    .execution_options(synchronize_session=False)
)


def _note(
    session: Session,
    batch: Batch,
    outcomes: Sequence[dict[str, Any]],
    jobs: list[tuple[str, UUID]],
) -> Fed:
    if outcomes:
        noted = session.scalars(_NOTE, {"outcomes": list(outcomes)}).all()
        if len(noted) != len(outcomes):
            raise AssertionError("a line became a job before")
    fed = Fed(jobs, refused=len(outcomes) - len(jobs))
    batch.waiting -= len(outcomes)
    batch.running += len(jobs)
    batch.failed += fed.refused
    return fed
