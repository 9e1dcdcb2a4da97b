"""The three guarded UPDATEs through which every arrow of the state machine goes, many jobs at once.

Each changes only the jobs that still are where the caller believes, and says which those were.
Rows are locked in the order of their ids, so that two transactions cannot wait for each other.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    Boolean,
    Interval,
    String,
    Uuid,
    bindparam,
    exists,
    func,
    or_,
    select,
    update,
)
from sqlalchemy.orm import Session

from app.billing.prices import Usage
from app.jobs.states import TERMINAL, TRANSITIONS, Outcome, Status
from app.jobs.tables import Attempt, Job
from app.rows import given
from app.webhooks.subscriptions import is_followed


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
    logprobs: list[dict[str, Any]] | None = None
    error_code: str | None = None
    error_message: str | None = None

    def __post_init__(self) -> None:
        """Only arrows of the table."""
        if (self.source, self.target) not in TRANSITIONS or self.target not in TERMINAL:
            raise AssertionError(f"there is no end from {self.source} to {self.target}")


@dataclass(frozen=True, slots=True)
class Done:
    """An end that took place: the job as it is now, the attempt that ended it, if any, and whether
    its account has webhook endpoints.
    """

    how: End
    job: Job
    attempt: Attempt | None
    followed: bool


# With the parameter "suspects" false: none that was lost before (workers/suspects.py).
SUSPECTS_OR_NOT = or_(
    bindparam("suspects", type_=Boolean),
    Job.attempt == 0,
    ~exists().where(Attempt.job_id == Job.id, Attempt.outcome == Outcome.LOST),
)
_FIRST = (
    select(Job.id)
    .where(
        Job.model == bindparam("of_model"),
        Job.version == bindparam("of_version"),
        Job.status == Status.QUEUED,
        Job.deadline_at > func.now(),
        SUSPECTS_OR_NOT,
    )
    .order_by(Job.priority.desc(), Job.id)
    .limit(bindparam("limit"))
    .with_for_update(skip_locked=True)
    .cte("first")
)
_START = (
    update(Job)
    .where(Job.id == _FIRST.c.id, Job.status == Status.QUEUED)
    .values(
        status=Status.RUNNING,
        attempt=Job.attempt + 1,
        worker=bindparam("by_worker"),
        lease_until=func.now() + bindparam("lease", type_=Interval),
        started_at=func.coalesce(Job.started_at, func.now()),
    )
    .returning(Job)
    .execution_options(populate_existing=True, synchronize_session=False)
)


def start(
    session: Session,
    model: str,
    version: str,
    *,
    worker: str,
    lease_seconds: float,
    limit: int,
    suspects: bool,
) -> list[Job]:
    """queued -> running: the first jobs of a model by priority and age, ``limit`` at most; without
    ``suspects`` none that was lost before.
    """
    parameters = {
        "of_model": model,
        "of_version": version,
        "by_worker": worker,
        "lease": timedelta(seconds=lease_seconds),
        "limit": limit,
        "suspects": suspects,
    }
    started = session.scalars(_START, parameters)
    return sorted(started, key=lambda job: (-job.priority, job.id))


_ENDS = given(
    "ends",
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
# One after the other; an UPDATE of many rows by itself locks them in no order.
_LOCKED = (
    select(Job.id)
    .where(Job.id.in_(bindparam("ids", expanding=True)))
    .order_by(Job.id)
    .with_for_update()
)
_END = (
    update(Job)
    .where(
        Job.id.in_(_LOCKED),
        Job.id == _ENDS.c.id,
        Job.status == _ENDS.c.source,
        or_(_ENDS.c.fence.is_(None), Job.attempt == _ENDS.c.fence),
    )
    .values(
        status=_ENDS.c.target,
        finished_at=func.now(),
        lease_until=None,
        finish_reason=_ENDS.c.finish_reason,
        prompt_tokens=_ENDS.c.prompt_tokens,
        completion_tokens=_ENDS.c.completion_tokens,
        error_code=_ENDS.c.error_code,
        error_message=_ENDS.c.error_message,
    )
    # Asked here because a statement of its own would cost more than all that it mostly finds: none.
    .returning(Job, is_followed(Job.account_id))
    .execution_options(populate_existing=True, synchronize_session=False)
)


def end(session: Session, ends: Sequence[End]) -> list[Done]:
    """queued or running -> a terminal state; returns what took place."""
    if not ends:
        return []
    rows = [_row(each) for each in ends]
    ended = session.execute(_END, {"ends": rows, "ids": [row["id"] for row in rows]}).all()
    jobs = {job.id: job for job, _ in ended}
    followed = {job.id for job, is_so in ended if is_so}
    # Two attempts at one job may come together: only one of them is how it ended.
    done = [
        each
        for each in ends
        if each.job_id in jobs and each.fence in (None, jobs[each.job_id].attempt)
    ]
    attempts = _close_attempts(
        session,
        {
            Lease(each.job_id, each.fence): each.outcome
            for each in done
            if each.fence is not None and each.outcome is not None
        },
    )
    return [
        Done(each, jobs[each.job_id], attempts.get(each.job_id), each.job_id in followed)
        for each in done
    ]


_LEASES = given("leases", id=Uuid, fence=BigInteger)
_REQUEUE = (
    update(Job)
    .where(
        Job.id.in_(_LOCKED),
        Job.id == _LEASES.c.id,
        Job.attempt == _LEASES.c.fence,
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


def requeue(session: Session, leases: Collection[Lease], outcome: Outcome) -> None:
    """running -> queued, for another attempt; ``outcome`` is what became of this one."""
    if not leases:
        return
    rows = [{"id": each.job_id, "fence": each.attempt} for each in leases]
    requeued = session.execute(_REQUEUE, {"leases": rows, "ids": [row["id"] for row in rows]})
    _close_attempts(session, {Lease(row.id, row.attempt): outcome for row in requeued})


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


_OUTCOMES = given("outcomes", job_id=Uuid, number=BigInteger, outcome=String)
_CLOSE_ATTEMPTS = (
    update(Attempt)
    .where(Attempt.job_id == _OUTCOMES.c.job_id, Attempt.number == _OUTCOMES.c.number)
    .values(ended_at=func.now(), outcome=_OUTCOMES.c.outcome)
    .returning(Attempt)
    .execution_options(populate_existing=True, synchronize_session=False)
)


def _close_attempts(session: Session, outcomes: dict[Lease, Outcome]) -> dict[UUID, Attempt]:
    """Say how these attempts ended; returns them by job. A job that never started has none."""
    if not outcomes:
        return {}
    rows = [
        {"job_id": lease.job_id, "number": lease.attempt, "outcome": outcome}
        for lease, outcome in outcomes.items()
    ]
    closed = session.scalars(_CLOSE_ATTEMPTS, {"outcomes": rows})
    return {attempt.job_id: attempt for attempt in closed}
