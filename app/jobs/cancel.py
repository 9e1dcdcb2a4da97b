"""queued -> cancelled at once; a running job is marked, and its engine stops it, or who takes it
back from a worker that cannot.
"""

from uuid import UUID

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from app.jobs import ending
from app.jobs.ending import Ended
from app.jobs.queries import owned_job
from app.jobs.states import Outcome, Status
from app.jobs.tables import Job
from app.jobs.transition import End


def cancel(session: Session, account_id: UUID, job_id: UUID, *, base_url: str) -> Ended | None:
    """Cancel a job; cancelling one that has ended, or was cancelled before, changes nothing.

    Returns the end of a job that was still queued, else None. Raises JobNotFound.
    """
    # Locked, so that no claim or rescue can change its status between the two updates below.
    owned_job(session, account_id, job_id, lock=True)
    waiting = End(job_id=job_id, source=Status.QUEUED, target=Status.CANCELLED)
    (ended,) = ending.end(session, [waiting], base_url=base_url)
    if ended is not None:
        return ended
    session.execute(
        update(Job)
        .where(Job.id == job_id, Job.status == Status.RUNNING, Job.cancel_requested_at.is_(None))
        .values(cancel_requested_at=func.now())
        .execution_options(synchronize_session=False)
    )
    return None


def cancel_queued(
    session: Session, model: str, *, until: UUID, base_url: str, limit: int = 100
) -> list[Ended] | None:
    """Cancel jobs that wait for a model, whoever's they are, up to this one; None when there was
    none. One that somebody else has in hand, such as a claim, is left alone.
    """
    waiting = session.scalars(
        select(Job.id)
        .where(Job.model == model, Job.status == Status.QUEUED, Job.id <= until)
        .order_by(Job.id)
        .limit(limit)
        .with_for_update(skip_locked=True)
    ).all()
    if not waiting:
        return None
    ends = [End(job_id=each, source=Status.QUEUED, target=Status.CANCELLED) for each in waiting]
    return [each for each in ending.end(session, ends, base_url=base_url) if each]


def end_unwanted(job: Job, outcome: Outcome) -> End:
    """running -> cancelled, for free: a marked job that no engine runs any more is not started
    again. ``outcome`` is what became of its attempt.
    """
    return End(
        job_id=job.id,
        source=Status.RUNNING,
        target=Status.CANCELLED,
        fence=job.attempt,
        outcome=outcome,
    )
