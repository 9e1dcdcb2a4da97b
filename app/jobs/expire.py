"""queued -> expired: a job whose deadline passed before it started costs nothing."""

from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.fleet.presence import by_model
from app.jobs import ending
from app.jobs.ending import Ended
from app.jobs.states import Status
from app.jobs.tables import Job
from app.jobs.transition import End
from app.jobs.waiting import WHY, reason


def expire_queued(
    session: Session, *, base_url: str, fresh_seconds: float, limit: int = 100
) -> list[Ended] | None:
    """End queued jobs that are past their deadline; None when there was none. Workers count that
    were heard of within ``fresh_seconds``.
    """
    late = session.execute(
        select(Job.id, Job.attempt, Job.model, Job.version)
        .where(Job.status == Status.QUEUED, Job.deadline_at <= func.now())
        .order_by(Job.deadline_at)
        .limit(limit)
        .with_for_update(skip_locked=True)
    ).all()
    if not late:
        return None
    there = by_model(session, fresh_seconds)
    ends = [
        _expired(job.id, job.attempt, WHY[reason(there.get(job.model), job.version)])
        for job in late
    ]
    return [each for each in ending.end(session, ends, base_url=base_url) if each]


def _expired(job_id: UUID, attempts: int, why: str) -> End:
    if attempts:
        code = "deadline_after_loss"
        message = (
            f"It was started {attempts} times, its worker was lost or stopped each time, "
            "and its deadline passed before another try."
        )
    else:
        code = "deadline_before_start"
        message = f"It could not start before its deadline: {why}."
    return End(
        job_id=job_id,
        source=Status.QUEUED,
        target=Status.EXPIRED,
        error_code=code,
        error_message=message,
    )
