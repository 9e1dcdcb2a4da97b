"""queued -> running: a worker takes the next jobs of its model.

The message that woke the worker names a job, but it is only a hint: order lives here, by
priority and then by age.
"""

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import bindparam, select
from sqlalchemy.orm import Session

from app.jobs import transition
from app.jobs.states import Outcome
from app.jobs.tables import Attempt, Job, Prompt
from app.jobs.transition import Lease
from app.rows import store


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


_PROMPTS = select(Prompt).where(Prompt.job_id.in_(bindparam("jobs", expanding=True)))


def claim(
    session: Session, *, model: str, version: str, worker: str, lease_seconds: float, limit: int
) -> list[Claimed]:
    """Take the next queued jobs of this model and version, ``limit`` at most."""
    jobs = transition.start(
        session,
        model=model,
        version=version,
        worker=worker,
        lease_seconds=lease_seconds,
        limit=limit,
    )
    if not jobs:
        return []
    store(session, (Attempt, [_attempt(job) for job in jobs]))
    found = session.scalars(_PROMPTS, {"jobs": [job.id for job in jobs]})
    prompts = {prompt.job_id: prompt for prompt in found}
    return [_claimed(job, prompts[job.id], lease_seconds) for job in jobs]


def _attempt(job: Job) -> dict[str, Any]:
    return {
        "job_id": job.id,
        "number": job.attempt,
        "account_id": job.account_id,
        "worker": job.worker,
        "outcome": Outcome.RUNNING,
    }


def _claimed(job: Job, prompt: Prompt, lease_seconds: float) -> Claimed:
    assert job.lease_until is not None
    now = job.lease_until - timedelta(seconds=lease_seconds)  # the database's, without asking it
    return Claimed(
        lease=Lease(job.id, job.attempt),
        request_id=job.request_id,
        kind=job.kind,
        prompt=prompt.prompt,
        messages=prompt.messages,
        parameters=job.parameters,
        seconds_left=(job.deadline_at - now).total_seconds(),
    )
