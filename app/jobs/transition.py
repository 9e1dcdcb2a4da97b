"""The three guarded UPDATEs through which every arrow of the state machine goes, many jobs at once.

Each changes only the jobs that still are where the caller believes, and says which those were.
Rows are locked in the order of their ids, so that two transactions cannot wait for each other.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import BigInteger, Select, String, TableValuedAlias, Uuid, func, or_, select, update
from sqlalchemy.orm import Session

from app.billing.prices import Usage
from app.jobs.states import TERMINAL, TRANSITIONS, Outcome, Status
from app.jobs.tables import Attempt, Job
from app.rows import given


@dataclass(frozen=True, slots=True)
class Lease:
    """The proof of ownership that every write of a worker names."""

    job_id: UUID
    attempt: int


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """How a job is to end.

    ``fence`` is the attempt that must still own the job, None for a job that waits; ``outcome`` is
    what becomes of that attempt. ``usage`` is charged; without one the hold is released.
    """

    job_id: UUID
    source: Status
    target: Status
    fence: int | None = None
    outcome: Outcome | None = None
    finish_reason: str | None = None
    usage: Usage | None = None
    text: str | None = None
    error_code: str | None = None
    error_message: str | None = None

    def __post_init__(self) -> None:
        """Only arrows of the table."""
        if (self.source, self.target) not in TRANSITIONS or self.target not in TERMINAL:
            raise AssertionError(f"there is no end from {self.source} to {self.target}")


def start(
    session: Session, *, model: str, version: str, worker: str, lease_seconds: float, limit: int
) -> list[Job]:
    """queued -> running: the first jobs of a model by priority and age, ``limit`` at most."""
    first = (
        select(Job.id)
        .where(
            Job.model == model,
            Job.version == version,
            Job.status == Status.QUEUED,
            Job.deadline_at > func.now(),
        )
        .order_by(Job.priority.desc(), Job.id)
        .limit(limit)
        .with_for_update(skip_locked=True)
        .cte("first")
    )
    started = session.scalars(
        update(Job)
        .where(Job.id == first.c.id, Job.status == Status.QUEUED)
        .values(
            status=Status.RUNNING,
            attempt=Job.attempt + 1,
            worker=worker,
            lease_until=func.now() + timedelta(seconds=lease_seconds),
            started_at=func.coalesce(Job.started_at, func.now()),
        )
        .returning(Job)
        .execution_options(populate_existing=True)
    )
    return sorted(started, key=lambda job: (-job.priority, job.id))


def end(session: Session, ends: Sequence[End]) -> list[tuple[End, Job]]:
    """queued or running -> a terminal state; returns what took place, with the jobs as they are."""
    if not ends:
        return []
    rows = _rows(ends)
    ended = session.scalars(
        update(Job)
        .where(
            Job.id.in_(_locked([each.job_id for each in ends])),
            Job.id == rows.c.id,
            Job.status == rows.c.source,
            or_(rows.c.fence.is_(None), Job.attempt == rows.c.fence),
        )
        .values(
            status=rows.c.target,
            finished_at=func.now(),
            lease_until=None,
            finish_reason=rows.c.finish_reason,
            prompt_tokens=rows.c.prompt_tokens,
            completion_tokens=rows.c.completion_tokens,
            error_code=rows.c.error_code,
            error_message=rows.c.error_message,
        )
        .returning(Job)
        .execution_options(populate_existing=True)
    )
    jobs = {job.id: job for job in ended}
    # Two attempts at one job may come together: only one of them is how it ended.
    done = [
        (each, jobs[each.job_id])
        for each in ends
        if each.job_id in jobs and each.fence in (None, jobs[each.job_id].attempt)
    ]
    _close_attempts(
        session,
        {
            Lease(each.job_id, each.fence): each.outcome
            for each, _ in done
            if each.fence is not None and each.outcome is not None
        },
    )
    return done


def requeue(session: Session, leases: Collection[Lease], outcome: Outcome) -> None:
    """running -> queued, for another attempt; ``outcome`` is what became of this one."""
    if not leases:
        return
    pairs = [{"id": each.job_id, "fence": each.attempt} for each in leases]
    rows = given(pairs, id=Uuid, fence=BigInteger)
    requeued = session.execute(
        update(Job)
        .where(
            Job.id.in_(_locked([each.job_id for each in leases])),
            Job.id == rows.c.id,
            Job.attempt == rows.c.fence,
            Job.status == Status.RUNNING,
        )
        .values(
            status=Status.QUEUED,
            lease_until=None,
            worker=None,
            # Its message is gone with its worker; an old one lets the sweep send another at once.
            message_at=Job.created_at,
        )
        .returning(Job.id, Job.attempt)
        .execution_options(synchronize_session=False)
    )
    _close_attempts(session, {Lease(row.id, row.attempt): outcome for row in requeued})


def _locked(job_ids: Sequence[UUID]) -> Select[UUID]:
    """These jobs, locked one after the other; an UPDATE of many rows by itself has no order."""
    return select(Job.id).where(Job.id.in_(job_ids)).order_by(Job.id).with_for_update()


def _rows(ends: Sequence[End]) -> TableValuedAlias:
    return given(
        [_row(each) for each in ends],
        id=Uuid,
        source=String,
        target=String,
        fence=BigInteger,
        finish_reason=String,
        prompt_tokens=BigInteger,
        completion_tokens=BigInteger,
        error_code=String,
        error_message=String,
    )


def _row(each: End) -> dict[str, Any]:
    return {
        "id": each.job_id,
        "source": each.source,
        "target": each.target,
        "fence": each.fence,
        "finish_reason": each.finish_reason,
        "prompt_tokens": each.usage.prompt_tokens if each.usage else None,
        "completion_tokens": each.usage.completion_tokens if each.usage else None,
        "error_code": each.error_code,
        "error_message": each.error_message,
    }


def _close_attempts(session: Session, outcomes: dict[Lease, Outcome]) -> None:
    """Say how these attempts ended; a job that never started has none."""
    if not outcomes:
        return
    rows = given(
        [
            {"job_id": lease.job_id, "number": lease.attempt, "outcome": outcome}
            for lease, outcome in outcomes.items()
        ],
        job_id=Uuid,
        number=BigInteger,
        outcome=String,
    )
    session.execute(
        update(Attempt)
        .where(Attempt.job_id == rows.c.job_id, Attempt.number == rows.c.number)
        .values(ended_at=func.now(), outcome=rows.c.outcome)
        .execution_options(synchronize_session=False)
    )
