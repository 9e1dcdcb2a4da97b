"""running -> queued or failed, for jobs whose worker stopped renewing the lease.

Lost attempts are never charged. A job that keeps losing its worker is failed after
``max_attempts``; the count lives in the database, so no broker can forget it. A job whose cancel
its dead worker never saw ends as cancelled.
"""

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.jobs import ending, transition
from app.jobs.ending import Ended
from app.jobs.states import Outcome, Status
from app.jobs.tables import Job
from app.jobs.transition import End, Lease


def rescue(
    session: Session, *, max_attempts: int, base_url: str, limit: int = 100
) -> list[Ended] | None:
    """Take back jobs from lost workers; returns those that ended, None if none was lost."""
    lost = _lost(session, limit)
    if not lost:
        return None
    ends, again = [], []
    for job in lost:
        if job.cancel_requested_at is not None:
            ends.append(_cancelled(job))
        elif job.attempt >= max_attempts:
            ends.append(_buried(job))
        else:
            again.append(Lease(job.id, job.attempt))
    transition.requeue(session, again)
    return [each for each in ending.end(session, ends, base_url=base_url) if each]


def _lost(session: Session, limit: int) -> list[Job]:
    return list(
        session.scalars(
            select(Job)
            .where(Job.status == Status.RUNNING, Job.lease_until < func.now())
            .order_by(Job.lease_until)
            .limit(limit)
            .with_for_update(skip_locked=True)
        )
    )


def _buried(job: Job) -> End:
    return End(
        job_id=job.id,
        source=Status.RUNNING,
        target=Status.FAILED,
        fence=job.attempt,
        outcome=Outcome.LOST,
        error_code="worker_lost",
        error_message=f"Its worker was lost {job.attempt} times; it was not started again.",
    )


def _cancelled(job: Job) -> End:
    return End(
        job_id=job.id,
        source=Status.RUNNING,
        target=Status.CANCELLED,
        fence=job.attempt,
        outcome=Outcome.LOST,
    )
