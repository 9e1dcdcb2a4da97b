"""What operators do to jobs: by the arrows that everybody else uses, and told to everybody."""

import sys
from collections.abc import Collection
from uuid import UUID

import structlog
from sqlalchemy.orm import Session

from app.cli.admin import database
from app.config import Settings
from app.jobs import operators, telling
from app.jobs.cancel import cancel_queued
from app.jobs.ending import Ended
from app.jobs.requeue import message_again
from app.jobs.rescue import rescue_one
from app.queues import Broker

Message = tuple[str, UUID]  # a model, and its job


def requeue(job_id: UUID) -> tuple[bool, str]:
    """Get a job going again; whether something was done, and what, in a sentence."""
    known = database.read()
    broker = _broker(known)
    with database.opened() as opened:
        with opened.transaction() as session:
            done, sentence, messages, ended = _requeue(session, job_id, known)
        if messages:
            with database.broker_explained():  # else the message would only be logged as missing
                broker.depths(model for model, _ in messages)
        broker.enqueue_jobs(messages)
        telling.tell(broker, ended)
    return done, sentence


def purge(model: str, *, until: UUID) -> int:
    """Cancel the jobs that wait for a model, up to this one, a hundred in a transaction."""
    known = database.read()
    broker = _broker(known)
    cancelled = 0
    with database.opened() as opened:
        while True:
            with opened.transaction() as session:
                ended = cancel_queued(session, model, until=until, base_url=known.public_url)
            if ended is None:
                return cancelled
            telling.tell(broker, ended)
            cancelled += len(ended)


def _requeue(
    session: Session, job_id: UUID, known: Settings
) -> tuple[bool, str, list[Message], Collection[Ended]]:
    job = operators.anyones(session, job_id)
    if message_again(session, job_id):
        return True, f"{job_id} waits; another message was sent.", [(job.model, job_id)], []
    back = rescue_one(session, job_id, max_attempts=known.max_attempts, base_url=known.public_url)
    if back is None:
        return False, _why_not(job.status, job_id, job.worker), [], []
    if back.waiting:
        return (
            True,
            f"{job_id} is queued again; its worker {job.worker} was lost.",
            back.waiting,
            [],
        )
    return (
        True,
        f"{job_id} has ended: it was cancelled, or its attempts are used up.",
        [],
        back.ended,
    )


def _why_not(status: str, job_id: UUID, worker: str | None) -> str:
    if status == "running":
        return f"{job_id} is in the hands of {worker}, which is alive; cancel it, or stop that."
    return f"{job_id} has ended: {status}."


def _broker(known: Settings) -> Broker:
    # Its log is no part of the answer.
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    with database.broker_explained():
        return Broker(known)
