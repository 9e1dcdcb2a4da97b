"""queued -> cancelled at once; a running job is marked, and its engine stops it, or who takes it
back from a worker that cannot.
"""

from collections.abc import Sequence
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
    owned_job(session, account_id, job_id, lock=True)
    return next(iter(cancel_all(session, [job_id], base_url=base_url)), None)


def cancel_all(session: Session, job_ids: Sequence[UUID], *, base_url: str) -> list[Ended]:
    """Cancel jobs, whoever owns them; returns the ends of those that were still queued."""
    # Locked, so that no claim or rescue can change a status between the two updates below.
    these = select(Job.id).where(Job.id.in_(job_ids)).order_by(Job.id)
    session.execute(these.with_for_update())
    waiting = [
        End(job_id=job_id, source=Status.QUEUED, target=Status.CANCELLED) for job_id in job_ids
    ]
    ended = ending.end(session, waiting, base_url=base_url)
    session.execute(
        update(Job)
        .where(
            Job.id.in_(job_ids),
            Job.status == Status.RUNNING,
            Job.cancel_requested_at.is_(None),
        )
        .values(cancel_requested_at=func.now())
        .execution_options(synchronize_session=False)
    )
    return [each for each in ended if each is not None]


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
