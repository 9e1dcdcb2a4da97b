"""What was recorded for an account, for its owner to read; every query names the account."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import ColumnElement, select
from sqlalchemy.orm import Session, defer

from app.errors import WebhookDeliveryNotFound
from app.webhooks.tables import Delivery


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Which deliveries to list: newest first, those older than ``after``, ``limit`` at most."""

    subscription_id: UUID | None = None
    job_id: UUID | None = None
    state: str | None = None
    since: datetime | None = None
    after: UUID | None = None
    limit: int = 20


def page(session: Session, account_id: UUID, wanted: Filter) -> tuple[list[Delivery], bool]:
    """One page of an account's deliveries, without their bodies, and whether there are more."""
    query = (
        select(Delivery)
        .options(defer(Delivery.body))
        .where(Delivery.account_id == account_id, *_conditions(wanted))
        .order_by(Delivery.id.desc())
        .limit(wanted.limit + 1)
    )
    found = session.scalars(query).all()
    return list(found[: wanted.limit]), len(found) > wanted.limit


def owned(session: Session, account_id: UUID, delivery_id: UUID, *, lock: bool = False) -> Delivery:
    """The account's delivery of that id; raises WebhookDeliveryNotFound."""
    query = select(Delivery).where(Delivery.id == delivery_id, Delivery.account_id == account_id)
    found = session.scalars(query.with_for_update() if lock else query).one_or_none()
    if found is None:
        raise WebhookDeliveryNotFound
    return found


def rewrite(session: Session, job_id: UUID, change: Callable[[str], str]) -> None:
    """Change what was or is to be told of a job, wherever it was to be sent."""
    told = select(Delivery).where(Delivery.job_id == job_id)
    # In the order in which couriers mark what they sent together.
    for delivery in session.scalars(told.order_by(Delivery.id).with_for_update()):
        delivery.body = change(delivery.body)


def recorded_since(moment: datetime) -> ColumnElement[bool]:
    """By the id, which begins with the milliseconds of its making: so an index ends the search."""
    milliseconds = max(int(moment.timestamp() * 1000), 0)
    return Delivery.id >= UUID(int=milliseconds << 80)


def _conditions(wanted: Filter) -> list[ColumnElement[bool]]:
    conditions = []
    if wanted.subscription_id is not None:
        conditions.append(Delivery.subscription_id == wanted.subscription_id)
    if wanted.job_id is not None:
        conditions.append(Delivery.job_id == wanted.job_id)
    if wanted.state is not None:
        conditions.append(Delivery.state == wanted.state)
    if wanted.since is not None:
        conditions.append(recorded_since(wanted.since))
    if wanted.after is not None:
        conditions.append(Delivery.id < wanted.after)
    return conditions
