"""The secret that signs an account's events, the outbox, and the endpoints that fail."""

from datetime import datetime
from enum import StrEnum
from uuid import UUID

from sqlalchemy import CheckConstraint, ForeignKey, Index, func, text
from sqlalchemy.orm import Mapped, mapped_column

from app.db import Base


class WebhookSecret(Base):
    """The account's signing secret, ``whsec_`` + base64; readable, since signing needs it."""

    __tablename__ = "webhook_secrets"

    account_id: Mapped[UUID] = mapped_column(ForeignKey("accounts.id"), primary_key=True)
    secret: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class DeliveryState(StrEnum):
    """Where an event stands on its way to the customer."""

    PENDING = "pending"
    DELIVERED = "delivered"
    ABANDONED = "abandoned"  # the schedule is used up, or the endpoint is disabled


class Delivery(Base):
    """One event for one address, written with what it reports."""

    __tablename__ = "webhook_deliveries"
    __table_args__ = (
        CheckConstraint("state IN ('pending', 'delivered', 'abandoned')", name="state"),
        CheckConstraint("(ended_at IS NULL) = (state = 'pending')", name="ended"),
        Index(
            "ix_webhook_deliveries_due",
            "next_attempt_at",
            postgresql_where=text("state = 'pending'"),
        ),
        Index(
            "ix_webhook_deliveries_host",
            "host",
            "next_attempt_at",
            postgresql_where=text("state = 'pending'"),
        ),
        Index(
            "ix_webhook_deliveries_abandoned",
            "ended_at",
            postgresql_where=text("state = 'abandoned'"),
        ),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True)
    account_id: Mapped[UUID] = mapped_column(ForeignKey("accounts.id"), index=True)
    job_id: Mapped[UUID] = mapped_column(index=True)
    type: Mapped[str]
    url: Mapped[str]
    host: Mapped[str]  # of the URL: a receiver that hangs must not hold up the others
    body: Mapped[str]
    state: Mapped[str] = mapped_column(default=DeliveryState.PENDING)
    attempts: Mapped[int] = mapped_column(default=0)
    next_attempt_at: Mapped[datetime] = mapped_column(server_default=func.now())
    last_status: Mapped[int | None]
    last_error: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    ended_at: Mapped[datetime | None]


class DisabledReason(StrEnum):
    """Why nothing is sent to an endpoint any more."""

    GONE = "gone"  # it answered 410
    FAILING = "failing"  # five days without a success


class Endpoint(Base):
    """A URL of an account that has failed at some time; one that never did has no row."""

    __tablename__ = "webhook_endpoints"
    __table_args__ = (
        CheckConstraint("(disabled_at IS NULL) = (disabled_reason IS NULL)", name="disabled"),
        CheckConstraint("disabled_reason IN ('gone', 'failing')", name="reason"),
    )

    account_id: Mapped[UUID] = mapped_column(ForeignKey("accounts.id"), primary_key=True)
    url: Mapped[str] = mapped_column(primary_key=True)
    failing_since: Mapped[datetime | None]  # the first failure after the last success
    disabled_at: Mapped[datetime | None]
    disabled_reason: Mapped[str | None]
