"""What an owner asks to be sent: an event once more, all that failed, or one as a trial."""

import json
from datetime import UTC, datetime
from uuid import UUID

from sqlalchemy import Select, func, select, update
from sqlalchemy.orm import Session

from app.errors import WebhookDeliveryPending, WebhookEndpointDisabled
from app.webhooks import journal, outbox, subscriptions
from app.webhooks.events import TEST
from app.webhooks.outbox import Event, host_of
from app.webhooks.tables import Delivery, DeliveryState, Endpoint, SubscriptionState

AT_ONCE = 1000  # a page of what failed; the owner asks again for the next


def one(session: Session, account_id: UUID, delivery_id: UUID) -> Delivery:
    """Send a delivery that has ended again, at once and to where its endpoint is now.

    Raises WebhookDeliveryNotFound, WebhookDeliveryPending, WebhookEndpointNotFound or
    WebhookEndpointDisabled.
    """
    delivery = journal.owned(session, account_id, delivery_id, lock=True)
    if delivery.state == DeliveryState.PENDING:
        raise WebhookDeliveryPending
    if delivery.subscription_id is None:
        url = delivery.url
        _check(session.get(Endpoint, (account_id, url)))
    else:
        url = _url(session, account_id, delivery.subscription_id)
    _queue(session, select(Delivery.id).where(Delivery.id == delivery_id), url)
    session.refresh(delivery)
    return delivery


def failed(
    session: Session, account_id: UUID, subscription_id: UUID, *, since: datetime
) -> list[UUID]:
    """Send again what was given up at an endpoint, the oldest first, ``AT_ONCE`` at most.

    Raises WebhookEndpointNotFound or WebhookEndpointDisabled.
    """
    url = _url(session, account_id, subscription_id)
    given_up = (
        select(Delivery.id)
        .where(
            Delivery.account_id == account_id,
            Delivery.subscription_id == subscription_id,
            Delivery.state == DeliveryState.ABANDONED,
            journal.recorded_since(since),
        )
        .order_by(Delivery.id)
        .limit(AT_ONCE)
        .with_for_update(skip_locked=True)
    )
    return _queue(session, given_up, url)


def trial(session: Session, account_id: UUID, subscription_id: UUID) -> Delivery:
    """An event that says nothing; raises WebhookEndpointNotFound or WebhookEndpointDisabled."""
    moment = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    body = {"type": TEST, "timestamp": moment, "data": {"endpoint": str(subscription_id)}}
    event = Event(
        account_id=account_id,
        type=TEST,
        url=_url(session, account_id, subscription_id),
        body=json.dumps(body, separators=(",", ":")),
        subscription_id=subscription_id,
    )
    (delivery_id,) = outbox.record(session, [event])
    return journal.owned(session, account_id, delivery_id)


def _url(session: Session, account_id: UUID, subscription_id: UUID) -> str:
    subscription, endpoint = subscriptions.read(session, account_id, subscription_id)
    if subscription.state == SubscriptionState.DISABLED:
        raise WebhookEndpointDisabled
    _check(endpoint)
    return subscription.url


def _check(endpoint: Endpoint | None) -> None:
    if endpoint is not None and endpoint.disabled_at is not None:
        raise WebhookEndpointDisabled


def _queue(session: Session, which: Select[UUID], url: str) -> list[UUID]:
    """As if they had just been recorded, but that attempts are counted on: their number fences."""
    queued = session.scalars(
        update(Delivery)
        .where(Delivery.id.in_(which))
        .values(
            state=DeliveryState.PENDING,
            ended_at=None,
            last_status=None,
            last_error=None,
            next_attempt_at=func.now(),
            attempts_before=Delivery.attempts,
            url=url,
            host=host_of(url),
        )
        .returning(Delivery.id)
        .execution_options(synchronize_session=False)
    )
    return list(queued)
