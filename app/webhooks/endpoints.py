"""Endpoints that fail: noted at the first failure, disabled by a 410 or after five days of it.

An endpoint is a URL of an account. One that never failed has no row, so that whoever looks for
trouble looks into an almost empty table.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import NamedTuple, cast
from uuid import UUID

import structlog
from sqlalchemy import (
    Boolean,
    String,
    Table,
    Uuid,
    and_,
    case,
    func,
    null,
    or_,
    select,
    tuple_,
    update,
)
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from app.rows import given
from app.webhooks.schedule import FAILING_AT_MOST
from app.webhooks.tables import Delivery, DeliveryState, DisabledReason, Endpoint

log = structlog.get_logger(__name__)

REASONS = {
    DisabledReason.GONE: "The endpoint is disabled: it answered 410.",
    DisabledReason.FAILING: "The endpoint is disabled: nothing succeeded there for five days.",
}
_AT_ONCE = 10_000  # deliveries given up in one statement, which may not take for ever


class Address(NamedTuple):
    """An endpoint, and the host that its deliveries are found by; in this order it is locked."""

    account_id: UUID
    url: str
    host: str


@dataclass(slots=True)
class News:
    """What a group of attempts says about one endpoint."""

    succeeded: bool = False
    gone: bool = False


_NEWS = given("news", account_id=Uuid, url=String, ok=Boolean, gone=Boolean)
_FRESH = select(
    _NEWS.c.account_id,
    _NEWS.c.url,
    case((_NEWS.c.ok, null()), else_=func.now()),
    case((_NEWS.c.gone, func.now())),
    case((_NEWS.c.gone, DisabledReason.GONE.value)),
).order_by(_NEWS.c.account_id, _NEWS.c.url)
_TABLE = cast(Table, Endpoint.__table__)
_KNOWN = _TABLE.c
_INSERT = insert(_TABLE).from_select(
    ["account_id", "url", "failing_since", "disabled_at", "disabled_reason"], _FRESH
)
_NEW = _INSERT.excluded
_TOO_LONG = and_(
    _NEW.failing_since.is_not(None), _KNOWN.failing_since <= func.now() - FAILING_AT_MOST
)
_NOTE = _INSERT.on_conflict_do_update(
    index_elements=[_KNOWN.account_id, _KNOWN.url],
    set_={
        "failing_since": case(
            (_NEW.failing_since.is_(None), null()),
            else_=func.coalesce(_KNOWN.failing_since, _NEW.failing_since),
        ),
        "disabled_at": func.coalesce(
            _KNOWN.disabled_at, _NEW.disabled_at, case((_TOO_LONG, func.now()))
        ),
        "disabled_reason": func.coalesce(
            _KNOWN.disabled_reason,
            _NEW.disabled_reason,
            case((_TOO_LONG, DisabledReason.FAILING.value)),
        ),
    },
).returning(_KNOWN.account_id, _KNOWN.url, _KNOWN.disabled_reason, _KNOWN.disabled_at == func.now())


def note(session: Session, news: Mapping[Address, News]) -> dict[Address, DisabledReason]:
    """Note failures and successes; returns which of these endpoints are disabled.

    The rows stay locked until the commit; the caller has locked no delivery yet.
    """
    if not news:
        return {}
    rows = [
        {"account_id": each.account_id, "url": each.url, "ok": it.succeeded, "gone": it.gone}
        for each, it in news.items()
    ]
    found = session.execute(_NOTE, {"news": rows}).all()
    addresses = {(each.account_id, each.url): each for each in news}
    disabled = {}
    for account_id, url, reason, is_new in found:
        if reason is None:
            continue
        address = addresses[account_id, url]
        disabled[address] = DisabledReason(reason)
        if is_new:
            log.warning(
                "webhook_endpoint_disabled",
                account_id=str(account_id),
                host=address.host,
                reason=reason,
            )
    return disabled


def give_up(session: Session, addresses: Collection[Address], lease_seconds: float) -> None:
    """Abandon what waits for these disabled endpoints, and say why; not what is in flight."""
    now, lease = func.now(), timedelta(seconds=lease_seconds)
    rests = or_(
        Delivery.attempts == 0,
        Delivery.next_attempt_at <= now,
        Delivery.next_attempt_at > now + lease,
    )
    waiting = (
        select(Delivery.id)
        .where(
            Delivery.state == DeliveryState.PENDING,
            Delivery.host.in_({each.host for each in addresses}),
            tuple_(Delivery.account_id, Delivery.url).in_([each[:2] for each in addresses]),
            rests,
        )
        .limit(_AT_ONCE)
        .with_for_update(skip_locked=True)
    )
    session.execute(
        update(Delivery)
        .where(
            Delivery.id.in_(waiting),
            Endpoint.account_id == Delivery.account_id,
            Endpoint.url == Delivery.url,
            Endpoint.disabled_at.is_not(None),
        )
        .values(
            state=DeliveryState.ABANDONED,
            ended_at=now,
            last_error=case(
                *((Endpoint.disabled_reason == reason, REASONS[reason]) for reason in REASONS)
            ),
        )
        .execution_options(synchronize_session=False)
    )


def disabled(session: Session, account_id: UUID) -> list[Endpoint]:
    """The account's disabled endpoints, the latest first."""
    query = select(Endpoint).where(
        Endpoint.account_id == account_id, Endpoint.disabled_at.is_not(None)
    )
    return list(session.scalars(query.order_by(Endpoint.disabled_at.desc(), Endpoint.url)))


def enable(session: Session, account_id: UUID, url: str) -> None:
    """Send to this URL again; its five days begin anew. Without effect unless it is disabled."""
    session.execute(
        update(Endpoint)
        .where(
            Endpoint.account_id == account_id,
            Endpoint.url == url,
            Endpoint.disabled_at.is_not(None),
        )
        .values(failing_since=None, disabled_at=None, disabled_reason=None)
    )
