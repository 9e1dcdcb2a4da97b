"""queued -> running: a worker takes the next jobs of its models.

The message that woke the worker names a job, but it is only a hint: order lives here, by
priority and then by age.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any

from sqlalchemy import String, bindparam, func, select, true
from sqlalchemy.orm import Session

from app.jobs import transition
from app.jobs.losses import losses
from app.jobs.states import Outcome, Status
from app.jobs.tables import Attempt, Job, Prompt
from app.jobs.transition import Lease
from app.rows import given, store

Served = tuple[str, str]  # a model that a worker has at hand, and its version


@dataclass(frozen=True, slots=True, kw_only=True)
class Claimed:
    """A job that this worker now owns, with all that the engine needs."""

    lease: Lease
    model: str
    request_id: str
    kind: str
    prompt: str | None
    messages: list[dict[str, str]] | None
    parameters: dict[str, Any]
    seconds_left: float  # until the deadline
    losses: int  # how often it lost its worker before


Start = Callable[..., list[Job]]  # transition.start, for one model and a limit

_PROMPTS = select(Prompt).where(Prompt.job_id.in_(bindparam("jobs", expanding=True)))


def claim(
    session: Session,
    served: Sequence[Served],
    *,
    worker: str,
    lease_seconds: float,
    limit: int,
    suspects: bool = True,
) -> list[Claimed]:
    """Take the next queued jobs of these models, ``limit`` at most; without ``suspects`` none that
    was lost before.
    """
    start = partial(
        transition.start, session, worker=worker, lease_seconds=lease_seconds, suspects=suspects
    )
    if len(served) == 1:
        jobs = start(*served[0], limit=limit)
    else:
        jobs = _start_of_many(session, served, start, limit=limit, suspects=suspects)
    if not jobs:
        return []
    store(session, (Attempt, [_attempt(job) for job in jobs]))
    found = session.scalars(_PROMPTS, {"jobs": [job.id for job in jobs]})
    prompts = {prompt.job_id: prompt for prompt in found}
    lost = losses(session, [job.id for job in jobs if job.attempt > 1])
    return [
        _claimed(job, prompts[job.id], lease_seconds=lease_seconds, losses=lost.get(job.id, 0))
        for job in jobs
    ]


_SERVED = given("served", model=String, version=String)
# Of each model as many as are wanted of all, because each is then one range of the queue's index.
_HEAD = (
    select(Job.id, Job.priority)
    .where(
        Job.model == _SERVED.c.model,
        Job.version == _SERVED.c.version,
        Job.status == Status.QUEUED,
        Job.deadline_at > func.now(),
        transition.SUSPECTS_OR_NOT,
    )
    .order_by(Job.priority.desc(), Job.id)
    .limit(bindparam("limit"))
    .lateral("head")
)
_NEXT = (
    select(_SERVED.c.model, _SERVED.c.version)
    .join(_HEAD, true())
    .order_by(_HEAD.c.priority.desc(), _HEAD.c.id)
    .limit(bindparam("limit"))
)


def _start_of_many(
    session: Session, served: Sequence[Served], start: Start, *, limit: int, suspects: bool
) -> list[Job]:
    """The first of all these models: see how many of each they are, then start so many of each.

    To lock the first of each model and let most of them go would hide them from other workers.
    """
    rows = [{"model": model, "version": version} for model, version in served]
    found = session.execute(_NEXT, {"served": rows, "limit": limit, "suspects": suspects})
    shares = Counter((model, version) for model, version in found)
    jobs = [job for each, share in shares.items() for job in start(*each, limit=share)]
    for each in served:  # where another worker was quicker, whatever else waits
        if missing := shares.total() - len(jobs):
            jobs += start(*each, limit=missing)
    return sorted(jobs, key=lambda job: (-job.priority, job.id))


def _attempt(job: Job) -> dict[str, Any]:
    return {
        "job_id": job.id,
        "number": job.attempt,
        "account_id": job.account_id,
        "worker": job.worker,
        "outcome": Outcome.RUNNING,
    }


def _claimed(job: Job, prompt: Prompt, *, lease_seconds: float, losses: int) -> Claimed:
    assert job.lease_until is not None
    now = job.lease_until - timedelta(seconds=lease_seconds)  # the database's, without asking it
    return Claimed(
        lease=Lease(job.id, job.attempt),
        model=job.model,
        request_id=job.request_id,
        kind=job.kind,
        prompt=prompt.prompt,
        messages=prompt.messages,
        parameters=job.parameters,
        seconds_left=(job.deadline_at - now).total_seconds(),
        losses=losses,
    )
