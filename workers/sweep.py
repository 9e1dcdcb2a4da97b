"""What beat asks for every few seconds: put right what a crash or a lost message left behind."""

import structlog

from app import catalog
from app.jobs.ending import Ended
from app.jobs.expire import expire_queued
from app.jobs.requeue import queued_by_model, take_missing
from app.jobs.rescue import rescue
from app.queues import WEBHOOKS
from app.webhooks import outbox
from workers.process import Process

log = structlog.get_logger(__name__)

_WEBHOOKS_AT_ONCE = 500


def sweep(process: Process) -> None:
    """Rescue, expire, send again. Each part commits by itself."""
    rescue_lost(process)
    expire_late(process)
    send_missing_messages(process)
    send_due_webhooks(process)


def rescue_lost(process: Process) -> None:
    """Jobs whose worker went silent: queue them again, or end them."""
    settings = process.settings
    with process.database.transaction() as session:
        ended = rescue(session, max_attempts=settings.max_attempts, base_url=settings.public_url)
    _tell_all(process, "jobs_given_up", ended)


def expire_late(process: Process) -> None:
    """Queued jobs past their deadline."""
    with process.database.transaction() as session:
        ended = expire_queued(session, base_url=process.settings.public_url)
    _tell_all(process, "jobs_expired", ended)


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
            process.broker.enqueue_jobs(model, job_ids)


def send_due_webhooks(process: Process) -> None:
    """Webhooks whose next attempt is due; no more than the queue has room for, since deliveries
    that are still in it are due as well.
    """
    room = _WEBHOOKS_AT_ONCE - process.broker.depth(WEBHOOKS)
    if room <= 0:
        return
    with process.database.transaction() as session:
        due = outbox.due(session, room)
    process.broker.enqueue_deliveries(due)


def _tell_all(process: Process, event: str, ended: list[Ended]) -> None:
    if ended:
        log.warning(event, jobs=len(ended))
    for each in ended:
        process.tell(each)
