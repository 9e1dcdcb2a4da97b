"""Who wants to be told of an account's events: registered, changed, and found when there is one."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import ColumnElement, and_, bindparam, func, or_, select, update
from sqlalchemy.orm import QueryableAttribute, Session
from uuid_utils.compat import uuid7

from app.errors import WebhookEndpointLimit, WebhookEndpointNotFound
from app.webhooks import endpoints, secrets
from app.webhooks.events import EventType
from app.webhooks.outbox import WITHDRAWN, host_of
from app.webhooks.signing import new_secret
from app.webhooks.tables import (
    Delivery,
    DeliveryState,
    Endpoint,
    Subscription,
    SubscriptionState,
)

AT_MOST = 20  # of an account: each is one more record for each job that ends
_AT_ONCE = 10_000  # deliveries changed in one statement, which may not take for ever
_IN_FLIGHT = timedelta(minutes=1)  # about; what this gets wrong is put right at the next claim


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What to set; None leaves it as it is."""

    url: str | None = None
    description: str | None = None
    events: list[EventType] | None = None
    state: SubscriptionState | None = None


def names(events: Iterable[EventType]) -> list[str]:
    """Each once, in order."""
    return sorted({str(each) for each in events})


class Standing(NamedTuple):
    """A subscription, and how its URL has fared if it ever failed."""

    subscription: Subscription
    endpoint: Endpoint | None


def create(session: Session, row: Subscription) -> None:
    """Register it, with a secret unless it has one; raises WebhookEndpointLimit."""
    secrets.lock(session, row.account_id)  # so that two at once cannot both be the last
    mine = select(func.count()).where(Subscription.account_id == row.account_id)
    if session.scalars(mine).one() >= AT_MOST:
        raise WebhookEndpointLimit
    row.id = uuid7()
    row.secret = row.secret or new_secret()
    session.add(row)
    session.flush()


def owned(
    session: Session, account_id: UUID, subscription_id: UUID, *, lock: bool = False
) -> Subscription:
    """The account's subscription of that id; raises WebhookEndpointNotFound."""
    query = select(Subscription).where(
        Subscription.id == subscription_id, Subscription.account_id == account_id
    )
    row = session.scalars(query.with_for_update() if lock else query).one_or_none()
    if row is None:
        raise WebhookEndpointNotFound
    return row


_STANDINGS = select(Subscription, Endpoint).outerjoin(
    Endpoint,
    and_(Endpoint.account_id == Subscription.account_id, Endpoint.url == Subscription.url),
)


def read(session: Session, account_id: UUID, subscription_id: UUID) -> Standing:
    """The same, with how it fares."""
    query = _STANDINGS.where(
        Subscription.id == subscription_id, Subscription.account_id == account_id
    )
    row = session.execute(query).one_or_none()
    if row is None:
        raise WebhookEndpointNotFound
    return Standing(*row)


def page(
    session: Session, account_id: UUID, *, after: UUID | None, limit: int
) -> tuple[list[Standing], bool]:
    """Some of an account's subscriptions, newest first, and whether there are more."""
    query = _STANDINGS.where(Subscription.account_id == account_id)
    if after is not None:
        query = query.where(Subscription.id < after)
    rows = session.execute(query.order_by(Subscription.id.desc()).limit(limit + 1)).all()
    return [Standing(*row) for row in rows[:limit]], len(rows) > limit


def change(session: Session, row: Subscription, wanted: Change) -> None:
    """Set what is wanted; the caller has locked the row. What waits moves to a new URL, or is given
    up with a disabled one. To enable one forgives its URL all failures.
    """
    moved = wanted.url is not None and wanted.url != row.url
    row.url = wanted.url or row.url
    if wanted.description is not None:
        row.description = wanted.description
    if wanted.events is not None:
        row.events = names(wanted.events)
    if wanted.state is SubscriptionState.ENABLED:
        row.state, row.disabled_at = wanted.state, None
        # Before any delivery is locked: couriers do it in this order, too.
        endpoints.enable(session, row.account_id, row.url)
    if moved:
        _change_waiting(session, row.id, {"url": row.url, "host": host_of(row.url)})
    if wanted.state is SubscriptionState.DISABLED and row.disabled_at is None:
        row.state, row.disabled_at = wanted.state, func.now()
        _give_up(session, row.id)


def remove(session: Session, row: Subscription) -> None:
    """End it, and what waits for it; what was recorded for it stays to be read."""
    session.delete(row)
    _give_up(session, row.id)


def is_followed(account_id: QueryableAttribute[UUID]) -> ColumnElement[bool]:
    """In a statement: whether an account has any, so that looking for them can mostly be spared."""
    mine = select(Subscription.id).where(Subscription.account_id == account_id)
    return mine.correlate_except(Subscription).exists()


_ENABLED = (
    select(Subscription.id, Subscription.account_id, Subscription.url, Subscription.events)
    .where(
        Subscription.account_id.in_(bindparam("accounts", expanding=True)),
        Subscription.state == SubscriptionState.ENABLED,
    )
    .order_by(Subscription.id)
)


class Follower(NamedTuple):
    """Where an account's events go as well, and which of them; none stands for all."""

    id: UUID
    account_id: UUID
    url: str
    events: list[str]

    def wants(self, event: EventType) -> bool:
        """Whether it is to be told of this."""
        return not self.events or event in self.events


def followers(session: Session, accounts: Collection[UUID]) -> list[Follower]:
    """Everybody who may be told of events of these accounts."""
    if not accounts:
        return []
    return [Follower(*row) for row in session.execute(_ENABLED, {"accounts": list(accounts)})]


def _give_up(session: Session, subscription_id: UUID) -> None:
    values: dict[str, Any] = {
        "state": DeliveryState.ABANDONED,
        "ended_at": func.now(),
        "last_error": WITHDRAWN,
    }
    now = func.now()
    rests = or_(
        Delivery.attempts == 0,
        Delivery.next_attempt_at <= now,
        Delivery.next_attempt_at > now + _IN_FLIGHT,
    )
    _change_waiting(session, subscription_id, values, rests)


def _change_waiting(
    session: Session, subscription_id: UUID, values: Mapping[str, Any], *which: ColumnElement[bool]
) -> None:
    """Not what is being marked or claimed just now: to wait for those could be in a circle."""
    waiting = (
        select(Delivery.id)
        .where(
            Delivery.subscription_id == subscription_id,
            Delivery.state == DeliveryState.PENDING,
            *which,
        )
        .limit(_AT_ONCE)
        .with_for_update(skip_locked=True)
    )
    session.execute(
        update(Delivery)
        .where(Delivery.id.in_(waiting))
        .values(**values)
        .execution_options(synchronize_session=False)
    )
