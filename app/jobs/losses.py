"""How often jobs have lost their worker, or its engine."""

from collections.abc import Collection
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.jobs.states import Outcome
from app.jobs.tables import Attempt


def losses(session: Session, job_ids: Collection[UUID]) -> dict[UUID, int]:
    """Of each job, by its attempts that are over. What was handed back was not lost."""
    if not job_ids:
        return {}
    found = session.execute(
        select(Attempt.job_id, func.count())
        .where(Attempt.job_id.in_(job_ids), Attempt.outcome == Outcome.LOST)
        .group_by(Attempt.job_id)
    )
    return {**dict.fromkeys(job_ids, 0), **{row[0]: row[1] for row in found}}
