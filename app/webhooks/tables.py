"""What signs events, who wants them, the outbox and its attempts, and the endpoints that fail."""

from datetime import datetime
from enum import StrEnum
from uuid import UUID

from sqlalchemy import ARRAY, CheckConstraint, ForeignKey, Index, String, func, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from app.db import Base


class Rotating:
    """A secret, ``whsec_`` + base64, readable since signing needs it; and those before it, each
    with the time ``until`` which it signs as well.
    """

    secret: Mapped[str]
    old_secrets: Mapped[list[dict[str, str]]] = mapped_column(
        JSONB, default=list, server_default=text("'[]'")
    )


class WebhookSecret(Rotating, Base):
    """What signs an account's events: the secret of what goes to jobs' own URLs, and the private
    key (``whsk_`` + base64) of everything.
    """

    __tablename__ = "webhook_secrets"

    account_id: Mapped[UUID] = mapped_column(ForeignKey("accounts.id"), primary_key=True)
    private_key: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class SubscriptionState(StrEnum):
    """Whether its owner wants events; the endpoint may be disabled all the same."""

    ENABLED = "enabled"
    DISABLED = "disabled"


class Subscription(Rotating, Base):
    """A URL that is told of an account's events, all or some; the API calls it an endpoint."""

    __tablename__ = "webhook_subscriptions"
    __table_args__ = (
        CheckConstraint("state IN ('enabled', 'disabled')", name="state"),
        CheckConstraint("(disabled_at IS NULL) = (state = 'enabled')", name="disabled"),
        Index("ix_webhook_subscriptions_account", "account_id", "id"),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True)
    account_id: Mapped[UUID] = mapped_column(ForeignKey("accounts.id"))
    url: Mapped[str]
    description: Mapped[str]
    events: Mapped[list[str]] = mapped_column(ARRAY(String))  # none stands for all
    state: Mapped[str] = mapped_column(default=SubscriptionState.ENABLED)
    disabled_at: Mapped[datetime | None]
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
        Index("ix_webhook_deliveries_account", "account_id", "id"),
        Index(
            "ix_webhook_deliveries_subscription",
            "subscription_id",
            "id",
            postgresql_where=text("subscription_id IS NOT NULL"),
        ),
        Index(
            "ix_webhook_deliveries_abandoned",
            "account_id",
            "id",
            postgresql_where=text("state = 'abandoned'"),
        ),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True)
    account_id: Mapped[UUID] = mapped_column(ForeignKey("accounts.id"))
    job_id: Mapped[UUID | None] = mapped_column(index=True)  # a test is of no job
    # None where it goes to the job's own webhook_url; the subscription itself may be gone.
    subscription_id: Mapped[UUID | None]
    type: Mapped[str]
    url: Mapped[str]
    host: Mapped[str]  # of the URL: a receiver that hangs must not hold up the others
    body: Mapped[str]
    state: Mapped[str] = mapped_column(default=DeliveryState.PENDING)
    attempts: Mapped[int] = mapped_column(default=0)
    # How many there were when it was last replayed: its schedule began anew there.
    attempts_before: Mapped[int] = mapped_column(default=0, server_default=text("0"))
    next_attempt_at: Mapped[datetime] = mapped_column(server_default=func.now())
    last_status: Mapped[int | None]
    last_error: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    ended_at: Mapped[datetime | None]


class DeliveryAttempt(Base):
    """What one attempt sent beside the body, and what came back."""

    __tablename__ = "webhook_attempts"

    delivery_id: Mapped[UUID] = mapped_column(
        ForeignKey("webhook_deliveries.id", ondelete="CASCADE"), primary_key=True
    )
    number: Mapped[int] = mapped_column(primary_key=True)
    account_id: Mapped[UUID] = mapped_column(ForeignKey("accounts.id"))
    started_at: Mapped[datetime]
    duration_ms: Mapped[int]
    # None where nothing could be sent.
    request_headers: Mapped[dict[str, str] | None] = mapped_column(JSONB(none_as_null=True))
    status: Mapped[int | None]
    answer: Mapped[str | None]  # how its body began
    error: Mapped[str | None]


class DisabledReason(StrEnum):
    """Why nothing is sent to an endpoint any more."""

    GONE = "gone"  # it answered 410
    FAILING = "failing"  # five days without a success


class Endpoint(Base):
    """A URL of an account that has failed at some time, whether subscriptions or jobs named it; one
    that never did has no row.
    """

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
