"""Reading batches. Every query of a client names the account."""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.batches.tables import OPEN, Batch, State
from app.errors import BatchNotFound
from app.openai.batches import (
    BatchObject,
    BatchProblem,
    BatchProblems,
    BatchUsage,
    RequestCounts,
    batch_id,
)
from app.openai.files import file_id

INPUTS_IN_USE = select(Batch.input_file_id).where(Batch.state.in_([state.value for state in OPEN]))


def owned_batch(session: Session, account_id: UUID, unique: UUID, *, lock: bool = False) -> Batch:
    """The account's batch of that id; raises BatchNotFound, also when it is another account's."""
    query = select(Batch).where(Batch.id == unique, Batch.account_id == account_id)
    batch = session.scalars(query.with_for_update() if lock else query).one_or_none()
    if batch is None:
        raise BatchNotFound
    return batch


def page(
    session: Session, account_id: UUID, *, after: UUID | None, limit: int
) -> tuple[Sequence[Batch], bool]:
    """One page of an account's batches, newest first, and whether there are more."""
    query = select(Batch).where(Batch.account_id == account_id)
    if after is not None:
        query = query.where(Batch.id < after)
    found = session.scalars(query.order_by(Batch.id.desc()).limit(limit + 1)).all()
    return found[:limit], len(found) > limit


def batch_object(batch: Batch) -> BatchObject:
    """The batch as its owner sees it; its sums are in its row, so nothing is counted."""
    return BatchObject(
        id=batch_id(batch.id),
        endpoint=batch.endpoint,
        model=batch.model,
        errors=_problems(batch),
        input_file_id=file_id(batch.input_file_id),
        status=batch.state,
        output_file_id=_file(batch, batch.output_file_id),
        error_file_id=_file(batch, batch.error_file_id),
        created_at=int(batch.created_at.timestamp()),
        in_progress_at=_seconds(batch.in_progress_at),
        expires_at=int(batch.expires_at.timestamp()),
        finalizing_at=_seconds(batch.finalizing_at),
        completed_at=_seconds(batch.completed_at),
        failed_at=_seconds(batch.failed_at),
        expired_at=_seconds(batch.expired_at),
        cancelling_at=_seconds(batch.cancelling_at),
        cancelled_at=_seconds(batch.cancelled_at),
        request_counts=RequestCounts(
            total=batch.lines, completed=batch.completed, failed=batch.failed
        ),
        usage=BatchUsage(
            input_tokens=batch.prompt_tokens,
            output_tokens=batch.completion_tokens,
            total_tokens=batch.prompt_tokens + batch.completion_tokens,
        ),
        metadata=batch.labels,
        waiting_for="credit" if batch.lacks_credit and _feeds(batch) else None,
    )


def _feeds(batch: Batch) -> bool:
    return batch.state == State.IN_PROGRESS and batch.ending is None


def _problems(batch: Batch) -> BatchProblems | None:
    if batch.errors is None:
        return None
    return BatchProblems(data=[BatchProblem(**each) for each in batch.errors])


def _file(batch: Batch, unique: UUID | None) -> str | None:
    """A file that is complete, which is when the batch has ended."""
    if unique is None or State(batch.state) in OPEN:
        return None
    return file_id(unique)


def _seconds(moment: datetime | None) -> int | None:
    return None if moment is None else int(moment.timestamp())
