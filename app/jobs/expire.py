"""queued -> expired: a job whose deadline passed before it started costs nothing."""

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.jobs.ending import Ended, release_and_record
from app.jobs.states import Status
from app.jobs.tables import Job
from app.jobs.transition import in_lock_order, move


def expire_queued(session: Session, *, base_url: str, limit: int = 100) -> list[Ended]:
    """End queued jobs that are past their deadline."""
    late = session.scalars(
        select(Job)
        .where(Job.status == Status.QUEUED, Job.deadline_at <= func.now())
        .order_by(Job.deadline_at)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    ended = []
    for each in in_lock_order(late):
        job = move(
            session,
            each.id,
            source=Status.QUEUED,
            target=Status.EXPIRED,
            error_code="deadline_before_start",
            error_message="No worker could start it before its deadline.",
        )
        if job is not None:
            ended.append(release_and_record(session, job, base_url=base_url))
    return ended
