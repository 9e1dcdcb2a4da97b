"""What operators see: jobs of all accounts, without what customers wrote."""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.errors import JobNotFound
from app.jobs.queries import Owned
from app.jobs.states import Status
from app.jobs.tables import Job


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which jobs: newest first, ``limit`` at most."""

    status: str | None = None
    model: str | None = None
    account_id: UUID | None = None
    limit: int = 20


def newest(session: Session, wanted: Wanted) -> Sequence[Job]:
    """The rows of these jobs."""
    query = select(Job).order_by(Job.id.desc()).limit(wanted.limit)
    if wanted.status is not None:
        query = query.where(Job.status == wanted.status)
    if wanted.model is not None:
        query = query.where(Job.model == wanted.model)
    if wanted.account_id is not None:
        query = query.where(Job.account_id == wanted.account_id)
    return session.scalars(query).all()


def anyones(session: Session, job_id: UUID) -> Job:
    """A job's row, whoever's it is; raises JobNotFound."""
    job = session.get(Job, job_id)
    if job is None:
        raise JobNotFound
    return job


def owned(job: Job) -> Owned:
    """What its owner would ask for."""
    return Owned(job.account_id, job.id)


def newest_queued(session: Session, model: str) -> UUID | None:
    """The last job that joined a model's queue, None when nothing waits there."""
    waiting = select(Job.id).where(Job.model == model, Job.status == Status.QUEUED)
    return session.scalar(waiting.order_by(Job.id.desc()).limit(1))
