"""What beat asks for every few seconds: put right what a crash or a lost message left behind."""

import time
from collections.abc import Callable

import structlog
from redis.exceptions import RedisError
from sqlalchemy.orm import Session

from app import catalog
from app.batches.queries import INPUTS_IN_USE
from app.errors import DatabaseUnavailable
from app.files.storing import forget_files
from app.jobs.ending import Ended
from app.jobs.expire import expire_queued
from app.jobs.forget import forget_keys
from app.jobs.requeue import queued_by_model, take_missing
from app.jobs.rescue import rescue
from app.queues import WEBHOOKS
from app.webhooks import outbox
from workers.process import Process

log = structlog.get_logger(__name__)


def sweep(process: Process) -> None:
    """Rescue, expire, send again, forget. Each part commits by itself, and fails by itself."""
    for part in (
        rescue_lost,
        expire_late,
        send_missing_messages,
        send_due_webhooks,
        forget_old_keys,
        advance_batches,
        forget_dead_files,
    ):
        try:
            part(process)
        except (DatabaseUnavailable, RedisError) as error:
            log.warning("sweep_missed", part=part.__name__, error=str(error))
        except Exception:
            log.exception("sweep_failed", part=part.__name__)


def rescue_lost(process: Process) -> None:
    """Jobs whose worker went silent: queue them again, or end them."""
    settings = process.settings

    def some(session: Session) -> list[Ended] | None:
        return rescue(session, max_attempts=settings.max_attempts, base_url=settings.public_url)

    _repeat(process, "jobs_given_up", some)


def expire_late(process: Process) -> None:
    """Queued jobs past their deadline."""

    def some(session: Session) -> list[Ended] | None:
        return expire_queued(
            session,
            base_url=process.settings.public_url,
            fresh_seconds=process.settings.lease_seconds,
        )

    _repeat(process, "jobs_expired", some)


def _repeat(process: Process, event: str, some: Callable[[Session], list[Ended] | None]) -> None:
    """A transaction at a time, while there is more and the next sweep is not due."""
    until = time.monotonic() + process.settings.sweep_seconds
    while time.monotonic() < until:
        with process.database.transaction() as session:
            ended = some(session)
        if ended is None:
            return
        if ended:
            log.warning(event, jobs=len(ended))
        process.tell(ended)


def send_missing_messages(process: Process) -> None:
    """Queued jobs that the broker has forgotten, or never heard of."""
    models = set(catalog.load(process.settings.catalog_file).models)
    with process.database.transaction() as session:
        models |= set(queued_by_model(session))
    depths = process.broker.depths(models)
    with process.database.transaction() as session:
        missing = take_missing(
            session, depths, grace_seconds=process.settings.requeue_grace_seconds
        )
    for model, job_ids in missing.items():
        if job_ids:
            log.warning("messages_sent_again", model=model, jobs=len(job_ids))
            process.broker.enqueue_jobs([(model, job_id) for job_id in job_ids])


def send_due_webhooks(process: Process) -> None:
    """Webhooks whose next attempt is due, unless a message that says so is on its way."""
    if process.broker.depth(WEBHOOKS):
        return
    with process.database.transaction() as session:
        due = outbox.first_due(session)
    if due is not None:
        process.broker.enqueue_delivery(due)


def forget_old_keys(process: Process) -> None:
    """Idempotency keys that are past their life."""
    until = time.monotonic() + process.settings.sweep_seconds
    more = True
    while more and time.monotonic() < until:
        with process.database.transaction() as session:
            more = forget_keys(session)


def advance_batches(process: Process) -> None:
    """Open batches whose message was lost, or whose worker died."""
    process.feeder.wake()


def forget_dead_files(process: Process) -> None:
    """What broken uploads left, and files past their life."""
    until = time.monotonic() + process.settings.sweep_seconds
    more = True
    while more and time.monotonic() < until:
        with process.database.transaction() as session:
            more = forget_files(session, in_use=INPUTS_IN_USE)
