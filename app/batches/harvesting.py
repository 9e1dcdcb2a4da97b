"""Which jobs of a batch have ended, added to its sums; and the end of those that nobody wants."""

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import and_, case, or_, select, update
from sqlalchemy.orm import Session

from app.batches.tables import Batch, BatchLine, LineState
from app.jobs.cancel import cancel_all
from app.jobs.ending import Ended
from app.jobs.states import Status
from app.jobs.tables import Job

_CANCELLED_TOGETHER = 200


def harvest(session: Session, batch: Batch) -> int:
    """Note what has ended since the last time; returns how many. It looks at what runs only."""
    ended = session.execute(
        update(BatchLine)
        .where(
            BatchLine.batch_id == batch.id,
            BatchLine.state == LineState.RUNNING,
            Job.id == BatchLine.job_id,
            Job.finished_at.is_not(None),
        )
        .values(
            state=case(
                (Job.status == Status.SUCCEEDED, LineState.COMPLETED.value),
                else_=LineState.FAILED.value,
            )
        )
        .returning(BatchLine.state, Job.prompt_tokens, Job.completion_tokens)
        .execution_options(synchronize_session=False)
    ).all()
    completed = sum(row.state == LineState.COMPLETED for row in ended)
    batch.running -= len(ended)
    batch.completed += completed
    batch.failed += len(ended) - completed
    batch.prompt_tokens += sum(row.prompt_tokens or 0 for row in ended)
    batch.completion_tokens += sum(row.completion_tokens or 0 for row in ended)
    return len(ended)


def cancel_some(session: Session, batch: Batch, *, base_url: str) -> list[Ended]:
    """Cancel the next of its jobs that were not asked to end yet."""
    return cancel_all(session, _not_asked(session, batch), base_url=base_url)


def has_expired_jobs(session: Session, batch: Batch) -> bool:
    """Whether a line was cut off by the end of the window."""
    late = (
        select(BatchLine.number)
        .join(Job, Job.id == BatchLine.job_id)
        .where(
            BatchLine.batch_id == batch.id,
            BatchLine.state == LineState.FAILED,
            Job.status == Status.EXPIRED,
        )
        .limit(1)
    )
    return session.scalar(late) is not None


def _not_asked(session: Session, batch: Batch) -> Sequence[UUID]:
    open_jobs = (
        select(Job.id)
        .join(BatchLine, BatchLine.job_id == Job.id)
        .where(
            BatchLine.batch_id == batch.id,
            BatchLine.state == LineState.RUNNING,
            or_(
                Job.status == Status.QUEUED,
                and_(Job.status == Status.RUNNING, Job.cancel_requested_at.is_(None)),
            ),
        )
        .order_by(Job.id)
        .limit(_CANCELLED_TOGETHER)
    )
    return session.scalars(open_jobs).all()
