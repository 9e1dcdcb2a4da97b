"""The attempts of each delivery, as its owner may read them: the last ten."""

from collections.abc import Collection, Sequence
from typing import Any, cast
from uuid import UUID

from sqlalchemy import BigInteger, DateTime, String, Table, Uuid, delete, select
from sqlalchemy.dialects.postgresql import JSONB, insert
from sqlalchemy.orm import Session

from app.rows import given
from app.webhooks.parcels import Parcel, Sent
from app.webhooks.tables import DeliveryAttempt

_MOST = 10
_TYPES = {
    "delivery_id": Uuid,
    "number": BigInteger,
    "account_id": Uuid,
    "started_at": DateTime(timezone=True),
    "duration_ms": BigInteger,
    "request_headers": JSONB,
    "status": BigInteger,
    "answer": String,
    "error": String,
}
# Part of the statement that marks deliveries, with the parameter "traces". Whoever was replaced has
# sent something, too; a row that is there was written by this same attempt.
KEEP = (
    insert(cast(Table, DeliveryAttempt.__table__))
    .from_select(list(_TYPES), select(given("traces", **_TYPES)))
    .on_conflict_do_nothing()
    .cte("kept")
)


def rows(sent: Sequence[Sent]) -> list[dict[str, Any]]:
    """What to keep of these."""
    return [
        {
            "delivery_id": parcel.id,
            "number": parcel.attempt,
            "account_id": parcel.account_id,
            "started_at": answer.trace.started,
            "duration_ms": answer.trace.duration_ms,
            "request_headers": answer.trace.headers,
            "status": answer.status,
            "answer": answer.trace.body,
            "error": answer.error,
        }
        for parcel, answer in sent
        if answer.trace is not None
    ]


def forget_old(session: Session, parcels: Collection[Parcel]) -> None:
    """Delete what is more than ten attempts back; only what was replayed has so many."""
    for parcel in parcels:
        if parcel.attempt > _MOST:
            session.execute(
                delete(DeliveryAttempt).where(
                    DeliveryAttempt.delivery_id == parcel.id,
                    DeliveryAttempt.number <= parcel.attempt - _MOST,
                )
            )


def read(session: Session, delivery_id: UUID) -> list[DeliveryAttempt]:
    """Those of a delivery, the first one first."""
    query = select(DeliveryAttempt).where(DeliveryAttempt.delivery_id == delivery_id)
    return list(session.scalars(query.order_by(DeliveryAttempt.number)))
