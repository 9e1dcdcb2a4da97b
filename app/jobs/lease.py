"""Keeping a claimed job: renew the lease, and hear whether its owner wants it cancelled."""

from collections.abc import Collection
from datetime import timedelta
from uuid import UUID

from sqlalchemy import func, select, tuple_, update
from sqlalchemy.orm import Session

from app.jobs.states import Outcome, Status
from app.jobs.tables import Attempt, Job
from app.jobs.transition import Lease


def renew(session: Session, leases: Collection[Lease], seconds: float) -> set[Lease]:
    """Extend these leases; returns those still held. The others are lost, or their jobs ended."""
    kept = session.execute(
        update(Job)
        .where(Job.id.in_(select(Job.id).where(*_owned(leases)).order_by(Job.id).with_for_update()))
        .values(lease_until=func.now() + timedelta(seconds=seconds))
        .returning(Job.id, Job.attempt)
        .execution_options(synchronize_session=False)
    )
    return {Lease(row.id, row.attempt) for row in kept}


def lost(session: Session, leases: Collection[Lease]) -> set[Lease]:
    """Which of these leases ran out, so that the sweep took their jobs back."""
    pairs = [(lease.job_id, lease.attempt) for lease in leases]
    rows = session.execute(
        select(Attempt.job_id, Attempt.number).where(
            tuple_(Attempt.job_id, Attempt.number).in_(pairs), Attempt.outcome == Outcome.LOST
        )
    )
    return {Lease(row.job_id, row.number) for row in rows}


def cancelled(session: Session, leases: Collection[Lease]) -> set[UUID]:
    """Which of these jobs their owners have asked to cancel."""
    asked = select(Job.id).where(*_owned(leases), Job.cancel_requested_at.is_not(None))
    return set(session.scalars(asked))


def _owned(leases: Collection[Lease]):  # type: ignore[no-untyped-def]
    pairs = [(lease.job_id, lease.attempt) for lease in leases]
    return tuple_(Job.id, Job.attempt).in_(pairs), Job.status == Status.RUNNING
