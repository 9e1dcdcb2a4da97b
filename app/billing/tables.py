"""The ledger (append-only), the balances it adds up to, one charge per job, and usage by day."""

from datetime import date, datetime
from enum import StrEnum
from uuid import UUID

from sqlalchemy import CheckConstraint, ForeignKey, Index, UniqueConstraint, func
from sqlalchemy.orm import Mapped, mapped_column

from app.db import Base


class Book(StrEnum):
    """Where money can be. Each transfer takes from one book and gives to another."""

    FUNDING = "funding"  # outside: what customers paid in
    AVAILABLE = "available"  # the account's credit that jobs may still hold
    HELD = "held"  # set aside for accepted jobs that have not ended
    REVENUE = "revenue"  # earned


class Kind(StrEnum):
    """Why money moved."""

    GRANT = "grant"  # funding -> available
    HOLD = "hold"  # available -> held, at submit
    CHARGE = "charge"  # held -> revenue, at the end: what was used
    RELEASE = "release"  # held -> available, at the end: the rest


class ChargeState(StrEnum):
    """What has become of a job's hold."""

    HELD = "held"
    CHARGED = "charged"
    RELEASED = "released"


class Transfer(Base):
    """One movement of money, never changed: double entry in one row, so it cannot be unbalanced."""

    __tablename__ = "transfers"
    __table_args__ = (
        CheckConstraint("amount_micros >= 0", name="not_negative"),
        CheckConstraint("debit <> credit", name="two_books"),
        # Each job holds, is charged and is released at most once.
        UniqueConstraint("job_id", "kind"),
        Index(None, "account_id", "id"),
    )

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    account_id: Mapped[UUID] = mapped_column(ForeignKey("accounts.id"))
    job_id: Mapped[UUID | None]
    kind: Mapped[str]
    debit: Mapped[str]
    credit: Mapped[str]
    amount_micros: Mapped[int]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class Balance(Base):
    """What the transfers of an account add up to, kept beside them so that a hold is one UPDATE."""

    __tablename__ = "balances"
    __table_args__ = (
        CheckConstraint("available_micros >= 0", name="available_not_negative"),
        CheckConstraint("held_micros >= 0", name="held_not_negative"),
    )

    account_id: Mapped[UUID] = mapped_column(ForeignKey("accounts.id"), primary_key=True)
    available_micros: Mapped[int] = mapped_column(default=0)
    held_micros: Mapped[int] = mapped_column(default=0)


class Charge(Base):
    """The money of one job: what was held, what was charged, and at which price."""

    __tablename__ = "charges"
    __table_args__ = (
        CheckConstraint("charged_micros BETWEEN 0 AND held_micros", name="within_hold"),
        CheckConstraint("(settled_at IS NULL) = (state = 'held')", name="settled"),
        CheckConstraint("state IN ('held', 'charged', 'released')", name="state"),
        CheckConstraint("state <> 'released' OR charged_micros = 0", name="released_is_free"),
    )

    job_id: Mapped[UUID] = mapped_column(primary_key=True)
    account_id: Mapped[UUID] = mapped_column(ForeignKey("accounts.id"), index=True)
    state: Mapped[str] = mapped_column(default=ChargeState.HELD)
    held_micros: Mapped[int]
    charged_micros: Mapped[int] = mapped_column(default=0)
    currency: Mapped[str]
    input_price_micros: Mapped[int]
    output_price_micros: Mapped[int]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    settled_at: Mapped[datetime | None]


class UsageDay(Base):
    """The jobs of an account that ended on one day (UTC), by model and status, added up."""

    __tablename__ = "usage_days"

    account_id: Mapped[UUID] = mapped_column(ForeignKey("accounts.id"), primary_key=True)
    day: Mapped[date] = mapped_column(primary_key=True)
    model: Mapped[str] = mapped_column(primary_key=True)
    status: Mapped[str] = mapped_column(primary_key=True)
    requests: Mapped[int]
    prompt_tokens: Mapped[int]
    completion_tokens: Mapped[int]
    charged_micros: Mapped[int]
