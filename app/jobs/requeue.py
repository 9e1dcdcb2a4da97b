"""Which queued jobs need a new message, because the broker has fewer messages than there are jobs.

A message is only a hint, so one too many is harmless; one too few leaves a job waiting.
"""

from collections.abc import Mapping
from datetime import timedelta
from uuid import UUID

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from app.jobs.states import Status
from app.jobs.tables import Job


def queued_by_model(session: Session) -> dict[str, int]:
    """How many jobs of each model wait in the database."""
    rows = session.execute(
        select(Job.model, func.count()).where(Job.status == Status.QUEUED).group_by(Job.model)
    )
    return {model: count for model, count in rows}  # noqa: C416  (rows are not plain tuples)


def take_missing(
    session: Session, depths: Mapping[str, int], *, grace_seconds: float, limit: int = 1000
) -> dict[str, list[UUID]]:
    """The jobs to send again, by model: as many as the broker's queue is short of.

    ``depths`` is the number of messages in each model's queue. A job whose last message is
    younger than ``grace_seconds`` is left: that message may be on its way to a worker.
    """
    missing = {
        model: count - depths.get(model, 0) for model, count in queued_by_model(session).items()
    }
    return {
        model: _take(session, model, min(short, limit), grace_seconds)
        for model, short in missing.items()
        if short > 0
    }


def message_again(session: Session, job_id: UUID) -> bool:
    """Note that a queued job gets another message now, however young its last one is; False where
    it is not queued.
    """
    noted = session.scalars(
        update(Job)
        .where(Job.id == job_id, Job.status == Status.QUEUED)
        .values(message_at=func.now())
        .returning(Job.id)
        .execution_options(synchronize_session=False)
    )
    return noted.one_or_none() is not None


def _take(session: Session, model: str, count: int, grace_seconds: float) -> list[UUID]:
    stale = (
        select(Job.id)
        .where(
            Job.status == Status.QUEUED,
            Job.model == model,
            Job.message_at < func.now() - timedelta(seconds=grace_seconds),
        )
        .order_by(Job.priority.desc(), Job.id)
        .limit(count)
        .with_for_update(skip_locked=True)
    )
    return list(
        session.scalars(
            update(Job)
            .where(Job.id.in_(stale))
            .values(message_at=func.now())
            .returning(Job.id)
            .execution_options(synchronize_session=False)
        )
    )
