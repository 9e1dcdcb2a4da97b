"""queued -> running: a worker takes the next job of its model.

The message that woke the worker names a job, but it is only a hint: order lives here, by
priority and then by age.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.jobs.states import Outcome, Status
from app.jobs.tables import Attempt, Job, Prompt
from app.jobs.transition import move


@dataclass(frozen=True, slots=True)
class Lease:
    """The proof of ownership that every later write names."""

    job_id: UUID
    attempt: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Claimed:
    """A job that this worker now owns, with all that the engine needs."""

    lease: Lease
    request_id: str
    kind: str
    prompt: str | None
    messages: list[dict[str, str]] | None
    parameters: dict[str, Any]
    seconds_left: float  # until the deadline


def claim(
    session: Session, *, model: str, version: str, worker: str, lease_seconds: float
) -> Claimed | None:
    """Take the next queued job of this model and version, or None when there is none."""
    next_id = session.scalar(
        select(Job.id)
        .where(
            Job.model == model,
            Job.version == version,
            Job.status == Status.QUEUED,
            Job.deadline_at > func.now(),
        )
        .order_by(Job.priority.desc(), Job.id)
        .limit(1)
        .with_for_update(skip_locked=True)
    )
    if next_id is None:
        return None
    job = move(
        session,
        next_id,
        source=Status.QUEUED,
        target=Status.RUNNING,
        attempt=Job.attempt + 1,
        worker=worker,
        lease_until=func.now() + timedelta(seconds=lease_seconds),
        started_at=func.coalesce(Job.started_at, func.now()),
    )
    if job is None:
        return None
    session.add(
        Attempt(
            job_id=job.id,
            number=job.attempt,
            account_id=job.account_id,
            worker=worker,
            outcome=Outcome.RUNNING,
        )
    )
    return _claimed(session, job)


def _claimed(session: Session, job: Job) -> Claimed:
    prompt = session.get_one(Prompt, job.id)
    now: datetime = session.scalar(select(func.now()))  # type: ignore[assignment]
    return Claimed(
        lease=Lease(job.id, job.attempt),
        request_id=job.request_id,
        kind=job.kind,
        prompt=prompt.prompt,
        messages=prompt.messages,
        parameters=job.parameters,
        seconds_left=(job.deadline_at - now).total_seconds(),
    )
