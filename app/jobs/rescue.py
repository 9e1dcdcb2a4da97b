"""running -> queued or failed, for jobs whose worker stopped renewing the lease, or tells that its
engine died under them.

Lost attempts are never charged. A job that has lost its worker ``max_attempts`` times is failed;
the count lives in the database, so no broker can forget it. A job whose cancel its dead worker
never saw ends as cancelled.
"""

from collections.abc import Collection, Sequence
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.jobs import ending, transition
from app.jobs.cancel import end_unwanted
from app.jobs.ending import Ended
from app.jobs.handback import HandedBack, held
from app.jobs.losses import losses
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
    return _take_back(session, lost, max_attempts=max_attempts, base_url=base_url).ended


def rescue_one(
    session: Session, job_id: UUID, *, max_attempts: int, base_url: str
) -> HandedBack | None:
    """Take back one job, at once; None unless it runs and its worker was lost."""
    lost = _lost(session, limit=1, job_id=job_id)
    if not lost:
        return None
    return _take_back(session, lost, max_attempts=max_attempts, base_url=base_url)


def lose(
    session: Session, leases: Collection[Lease], *, max_attempts: int, base_url: str
) -> HandedBack:
    """Take back jobs whose engine died, at once: what their worker holds no more is left alone.

    It is a loss, because one of them may be what killed the engine, and would kill every next one.
    """
    lost = held(session, leases)
    return _take_back(session, lost, max_attempts=max_attempts, base_url=base_url)


def _take_back(
    session: Session, lost: Sequence[Job], *, max_attempts: int, base_url: str
) -> HandedBack:
    before = losses(session, [job.id for job in lost])
    ends, again = [], []
    for job in lost:
        if job.cancel_requested_at is not None:
            ends.append(end_unwanted(job, Outcome.LOST))
        elif before[job.id] + 1 >= max_attempts:
            ends.append(_buried(job, before[job.id] + 1))
        else:
            again.append(job)
    transition.requeue(session, [Lease(job.id, job.attempt) for job in again], Outcome.LOST)
    ended = [each for each in ending.end(session, ends, base_url=base_url) if each]
    return HandedBack([(job.model, job.id) for job in again], ended)


def _lost(session: Session, limit: int, job_id: UUID | None = None) -> list[Job]:
    query = (
        select(Job)
        .where(Job.status == Status.RUNNING, Job.lease_until < func.now())
        .order_by(Job.lease_until)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    return list(session.scalars(query if job_id is None else query.where(Job.id == job_id)))


def _buried(job: Job, times: int) -> End:
    return End(
        job_id=job.id,
        source=Status.RUNNING,
        target=Status.FAILED,
        fence=job.attempt,
        outcome=Outcome.LOST,
        error_code="worker_lost",
        error_message=f"Its worker was lost {times} times; it was not started again.",
    )
