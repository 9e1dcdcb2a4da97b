"""The task of the webhook queue: claim a due delivery, send it once, write how it went."""

from uuid import UUID

import structlog

from app.webhooks import outbox
from app.webhooks.sending import send
from workers.process import Process

log = structlog.get_logger(__name__)

_MARGIN_SECONDS = 15  # beyond the receiver's time, for name resolution and writing the outcome


def deliver(process: Process, delivery_id: UUID) -> None:
    """Send one webhook, if it is due and nobody else is sending it."""
    settings = process.settings
    with process.database.transaction() as session:
        parcel = outbox.claim(
            session, delivery_id, settings.webhook_timeout_seconds + _MARGIN_SECONDS
        )
    if parcel is None:
        return
    answer = send(parcel, settings)
    with process.database.transaction() as session:
        state = outbox.mark(session, parcel, answer)
    log.info(
        "webhook_sent",
        delivery_id=str(parcel.id),
        attempt=parcel.attempt,
        status=answer.status,
        error=answer.error,
        state=state,
    )
