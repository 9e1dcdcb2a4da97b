"""The one guarded UPDATE through which every arrow of the state machine goes."""

from collections.abc import Iterable
from typing import Any
from uuid import UUID

from sqlalchemy import func, update
from sqlalchemy.orm import Session

from app.jobs.states import TERMINAL, TRANSITIONS, Outcome, Status
from app.jobs.tables import Attempt, Job


def move(
    session: Session,
    job_id: UUID,
    *,
    source: Status,
    target: Status,
    fence: int | None = None,
    **values: Any,
) -> Job | None:
    """Move a job from one status to another, if it still is where the caller believes.

    ``fence`` is the attempt that a worker owns: a job that was given to another since does not
    match. Returns the job as it is now, or None when nothing changed.
    """
    if (source, target) not in TRANSITIONS:
        raise AssertionError(f"there is no arrow from {source} to {target}")
    if target in TERMINAL:
        values["finished_at"] = func.now()
    if source is Status.RUNNING:
        values["lease_until"] = None
    guarded = update(Job).where(Job.id == job_id, Job.status == source)
    if fence is not None:
        guarded = guarded.where(Job.attempt == fence)
    return session.scalars(
        guarded.values(status=target, **values)
        .returning(Job)
        .execution_options(populate_existing=True)
    ).one_or_none()


def in_lock_order(jobs: Iterable[Job]) -> list[Job]:
    """The order in which a transaction that ends several jobs must take them.

    Each end locks its account's balance; two such transactions in different orders would deadlock.
    """
    return sorted(jobs, key=lambda job: job.account_id)


def end_attempt(session: Session, job: Job, outcome: Outcome) -> None:
    """Close the attempt that the job is at."""
    session.execute(
        update(Attempt)
        .where(Attempt.job_id == job.id, Attempt.number == job.attempt)
        .values(ended_at=func.now(), outcome=outcome)
        .execution_options(synchronize_session=False)
    )
