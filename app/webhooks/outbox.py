"""The outbox: record an event with its result, claim it for an attempt, write how it went."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import BigInteger, Interval, String, Uuid, bindparam, case, func, select, update
from sqlalchemy.orm import Session
from uuid_utils.compat import uuid7

from app.errors import WebhookURLRefused
from app.rows import given, store
from app.webhooks import addresses, attempts, endpoints, lanes, secrets
from app.webhooks.endpoints import REASONS, Address, News
from app.webhooks.lanes import DUE, Room
from app.webhooks.parcels import Answer, Parcel, Sent
from app.webhooks.schedule import delay_after
from app.webhooks.tables import Delivery, DeliveryState, DisabledReason


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """What is to be told, and to whom; ``body`` is what every attempt sends."""

    account_id: UUID
    type: str
    url: str
    body: str
    job_id: UUID | None = None
    subscription_id: UUID | None = None


def record(session: Session, events: Sequence[Event]) -> list[UUID]:
    """Write events into the outbox, in the transaction of what they report.

    Returns the delivery of each.
    """
    rows: list[dict[str, Any]] = [
        {
            "id": uuid7(),
            "account_id": event.account_id,
            "job_id": event.job_id,
            "subscription_id": event.subscription_id,
            "type": event.type,
            "url": event.url,
            "host": host_of(event.url),
            "body": event.body,
            "state": DeliveryState.PENDING,
            "attempts": 0,
            "attempts_before": 0,
        }
        for event in events
    ]
    store(session, (Delivery, rows))
    return [row["id"] for row in rows]


# No name can be this one (RFC 2606). Sending refuses such a URL, and says why.
_REFUSED = "invalid"


def host_of(url: str) -> str:
    """The lane of a URL; also of one that was accepted before a rule that refuses it: its job must
    be able to end.
    """
    try:
        return addresses.parse(url).authority
    except WebhookURLRefused:
        return _REFUSED


def first_due(session: Session) -> UUID | None:
    """The delivery that has been due for longest."""
    return session.scalar(
        select(Delivery.id).where(DUE).order_by(Delivery.next_attempt_at).limit(1)
    )


_FREE = (
    select(Delivery.id)
    .where(Delivery.id.in_(bindparam("chosen", expanding=True)), DUE)
    .with_for_update(skip_locked=True)
)
_CLAIM = (
    update(Delivery)
    .where(Delivery.id.in_(_FREE))
    .values(
        attempts=Delivery.attempts + 1,
        next_attempt_at=func.now() + bindparam("lease", type_=Interval),
    )
    .returning(Delivery)
    .execution_options(synchronize_session=False)
)


@dataclass(frozen=True, slots=True)
class Claimed:
    """What to send now, and whether more may be due than was taken."""

    parcels: list[Parcel]
    more: bool


def claim(session: Session, *, limit: int, room: Room, lease_seconds: float) -> Claimed:
    """Take due deliveries for one attempt each, longest due first, ``limit`` at most.

    ``room`` says how many more of a host, or of an account, may be in flight. The next attempt of
    what is taken moves ``lease_seconds`` away, so that a sender that dies is replaced then. What is
    due at a disabled endpoint is given up here.
    """
    choice = lanes.choose(session, limit, room)
    if choice.disabled:
        endpoints.give_up(session, choice.disabled, lease_seconds)
        choice = lanes.choose(session, limit, room)
    chosen = choice.failing
    if not chosen:
        return Claimed([], choice.more)
    lease = timedelta(seconds=lease_seconds)
    claimed = session.scalars(_CLAIM, {"chosen": list(chosen), "lease": lease}).all()
    keys = secrets.keys_of(session, claimed)
    withdraw(session, [delivery.id for delivery in claimed if delivery.id not in keys])
    parcels = [
        Parcel(
            id=delivery.id,
            attempt=delivery.attempts,
            account_id=delivery.account_id,
            host=delivery.host,
            url=delivery.url,
            body=delivery.body.encode(),
            keys=keys[delivery.id],
            before=delivery.attempts_before,
            failing=chosen[delivery.id],
        )
        for delivery in claimed
        if delivery.id in keys
    ]
    # Another process may have taken some of what was chosen here, and left others.
    return Claimed(parcels, choice.more or len(parcels) < len(chosen))


WITHDRAWN = "Its endpoint was deleted, or disabled by its owner."


def withdraw(session: Session, claimed: Collection[UUID]) -> None:
    """Give up what nobody wants any more, as if it had not been claimed."""
    if claimed:
        session.execute(
            update(Delivery)
            .where(Delivery.id.in_(claimed))
            .values(
                state=DeliveryState.ABANDONED,
                ended_at=func.now(),
                attempts=Delivery.attempts - 1,
                last_error=WITHDRAWN,
            )
            .execution_options(synchronize_session=False)
        )


_OUTCOMES = given(
    "outcomes",
    id=Uuid,
    attempts=BigInteger,
    state=String,
    last_status=BigInteger,
    last_error=String,
    wait=BigInteger,
)
_AGAIN = _OUTCOMES.c.state == DeliveryState.PENDING
_MARK = (
    update(Delivery)
    .where(
        Delivery.id == _OUTCOMES.c.id,
        Delivery.attempts == _OUTCOMES.c.attempts,
        Delivery.state == DeliveryState.PENDING,
    )
    .values(
        state=_OUTCOMES.c.state,
        last_status=_OUTCOMES.c.last_status,
        last_error=_OUTCOMES.c.last_error,
        next_attempt_at=case(
            (_AGAIN, func.now() + _OUTCOMES.c.wait * timedelta(seconds=1)),
            else_=Delivery.next_attempt_at,
        ),
        ended_at=case((_AGAIN, None), else_=func.now()),
    )
    .returning(Delivery.id, Delivery.attempts)
    .add_cte(attempts.KEEP)
    .execution_options(synchronize_session=False)
)


def mark(
    session: Session, sent: Sequence[Sent], *, lease_seconds: float
) -> list[DeliveryState | None]:
    """Write what each attempt was and how it went; None where another has taken over meanwhile.

    ``lease_seconds`` as for ``claim``: what else waits for an endpoint that is disabled by this is
    given up, unless it is in flight.
    """
    disabled = endpoints.note(session, _news(sent))
    outcomes = [_outcome(parcel, answer, disabled.get(parcel.address)) for parcel, answer in sent]
    traces = attempts.rows(sent)
    in_order = sorted(outcomes, key=lambda each: each["id"])
    marked = session.execute(_MARK, {"outcomes": in_order, "traces": traces})
    written = {(row.id, row.attempts) for row in marked}
    attempts.forget_old(session, [parcel for parcel, _ in sent])
    if disabled:
        endpoints.give_up(session, disabled, lease_seconds)
    return [
        each["state"] if (each["id"], each["attempts"]) in written else None for each in outcomes
    ]


def _news(sent: Sequence[Sent]) -> dict[Address, News]:
    """What endpoints have to be told: failures, and successes of those that have been failing."""
    news: dict[Address, News] = {}
    for parcel, answer in sent:
        if parcel.failing or not answer.accepted:
            each = news.setdefault(parcel.address, News())
            each.succeeded |= answer.accepted
            each.gone |= answer.gone
    return news


def _outcome(parcel: Parcel, answer: Answer, disabled: DisabledReason | None) -> dict[str, Any]:
    delay = delay_after(parcel.attempt - parcel.before, answer.retry_after_seconds)
    error = answer.error
    if answer.accepted:
        state = DeliveryState.DELIVERED
    elif disabled is not None:
        state, error = DeliveryState.ABANDONED, REASONS[disabled]
    elif delay is None:
        state = DeliveryState.ABANDONED
    else:
        state = DeliveryState.PENDING
    return {
        "id": parcel.id,
        "attempts": parcel.attempt,
        "state": state,
        "last_status": answer.status,
        "last_error": error,
        "wait": int(delay.total_seconds()) if delay else 0,
    }
