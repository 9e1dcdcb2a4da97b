"""The outbox: record an event with its result, claim it for an attempt, write how it went."""

from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session
from uuid_utils.compat import uuid7

from app.webhooks.schedule import delay_after
from app.webhooks.tables import Delivery, DeliveryState, WebhookSecret


@dataclass(frozen=True, slots=True)
class Parcel:
    """All that one attempt needs; ``attempt`` fences it like a job's."""

    id: UUID
    attempt: int
    url: str
    body: bytes
    secret: str


@dataclass(frozen=True, slots=True)
class Answer:
    """How one attempt went: an HTTP status, or an error when there was no answer."""

    status: int | None = None
    error: str | None = None
    retry_after_seconds: int | None = None

    @property
    def accepted(self) -> bool:
        """Any 2xx is a yes; a redirect is not."""
        return self.status is not None and 200 <= self.status < 300

    @property
    def gone(self) -> bool:
        """The receiver wants no more of these."""
        return self.status == 410


def record(
    session: Session, *, account_id: UUID, job_id: UUID, event_type: str, url: str, body: str
) -> UUID:
    """Write an event into the outbox, in the transaction of what it reports; returns its id."""
    delivery = Delivery(
        id=uuid7(), account_id=account_id, job_id=job_id, type=event_type, url=url, body=body
    )
    session.add(delivery)
    return delivery.id


def due(session: Session, limit: int) -> list[UUID]:
    """The deliveries whose time has come, longest waiting first."""
    return list(
        session.scalars(
            select(Delivery.id)
            .where(Delivery.state == DeliveryState.PENDING, Delivery.next_attempt_at <= func.now())
            .order_by(Delivery.next_attempt_at)
            .limit(limit)
        )
    )


def claim(session: Session, delivery_id: UUID, lease_seconds: float) -> Parcel | None:
    """Take a due delivery for one attempt, or None when it is not due or somebody else has it.

    Its next attempt moves ``lease_seconds`` away, so that a sender that dies is replaced then.
    """
    delivery = session.scalars(
        update(Delivery)
        .where(
            Delivery.id == delivery_id,
            Delivery.state == DeliveryState.PENDING,
            Delivery.next_attempt_at <= func.now(),
        )
        .values(
            attempts=Delivery.attempts + 1,
            next_attempt_at=func.now() + timedelta(seconds=lease_seconds),
        )
        .returning(Delivery)
    ).one_or_none()
    if delivery is None:
        return None
    secret = session.get_one(WebhookSecret, delivery.account_id).secret
    return Parcel(delivery.id, delivery.attempts, delivery.url, delivery.body.encode(), secret)


def mark(session: Session, parcel: Parcel, answer: Answer) -> DeliveryState | None:
    """Write how the attempt went; None when another attempt has taken over meanwhile."""
    delay = delay_after(parcel.attempt, answer.retry_after_seconds)
    if answer.accepted:
        state = DeliveryState.DELIVERED
    elif answer.gone or delay is None:
        state = DeliveryState.ABANDONED
    else:
        state = DeliveryState.PENDING
    pending = state is DeliveryState.PENDING
    marked = session.execute(
        update(Delivery)
        .where(
            Delivery.id == parcel.id,
            Delivery.attempts == parcel.attempt,
            Delivery.state == DeliveryState.PENDING,
        )
        .values(
            state=state,
            last_status=answer.status,
            last_error=answer.error,
            next_attempt_at=func.now() + delay if pending else Delivery.next_attempt_at,
            ended_at=None if pending else func.now(),
        )
        .returning(Delivery.id)
    ).one_or_none()
    return state if marked else None
