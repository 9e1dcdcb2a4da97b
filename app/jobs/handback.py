"""running -> queued, for jobs that a worker gives back because it was asked to stop.

Nothing is wrong with them: a hand-back is not a loss, and does not count towards
``max_attempts``. The attempt number stays, and the next claim raises it as always, so what the
stopped worker might still write changes nothing. A job that its owner wants cancelled is not
started again: it ends as cancelled, and free.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import select, tuple_
from sqlalchemy.orm import Session

from app.jobs import ending, transition
from app.jobs.cancel import end_unwanted
from app.jobs.ending import Ended
from app.jobs.states import Outcome, Status
from app.jobs.tables import Job
from app.jobs.transition import Lease


@dataclass(frozen=True, slots=True)
class HandedBack:
    """The jobs that wait for another worker, with their models, and those that ended instead."""

    waiting: list[tuple[str, UUID]]
    ended: list[Ended]


def hand_back(session: Session, leases: Collection[Lease], *, base_url: str) -> HandedBack:
    """Give these jobs to other workers; those whose lease is lost are left alone."""
    jobs = held(session, leases)
    unwanted = [job for job in jobs if job.cancel_requested_at is not None]
    wanted = [job for job in jobs if job.cancel_requested_at is None]
    transition.requeue(session, [Lease(job.id, job.attempt) for job in wanted], Outcome.HANDED_BACK)
    ends = [end_unwanted(job, Outcome.HANDED_BACK) for job in unwanted]
    ended = [each for each in ending.end(session, ends, base_url=base_url) if each]
    return HandedBack([(job.model, job.id) for job in wanted], ended)


def held(session: Session, leases: Collection[Lease]) -> Sequence[Job]:
    """Those of the jobs that are still held, locked so that no cancel can come between."""
    pairs = [(lease.job_id, lease.attempt) for lease in leases]
    return session.scalars(
        select(Job)
        .where(tuple_(Job.id, Job.attempt).in_(pairs), Job.status == Status.RUNNING)
        .order_by(Job.id)
        .with_for_update()
    ).all()
