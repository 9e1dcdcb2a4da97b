"""Jobs, their attempts, and apart from them what customers wrote and what models answered."""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import CheckConstraint, ForeignKey, Index, LargeBinary, func, text
from sqlalchemy.orm import Mapped, mapped_column

from app.db import Base


class Job(Base):
    """One accepted request. It carries no text of the customer's but metadata and webhook_url."""

    __tablename__ = "jobs"
    __table_args__ = (
        CheckConstraint(
            "status IN ('queued', 'running', 'succeeded', 'failed', 'cancelled', 'expired')",
            name="status",
        ),
        CheckConstraint(
            "(finished_at IS NOT NULL) = (status NOT IN ('queued', 'running'))", name="finished"
        ),
        CheckConstraint("(lease_until IS NOT NULL) = (status = 'running')", name="leased"),
        CheckConstraint("status <> 'running' OR worker IS NOT NULL", name="owned"),
        # What a worker claims next: by priority, then by age (ids are in order of time).
        Index(
            "ix_jobs_queue",
            "model",
            text("priority DESC"),
            "id",
            postgresql_where=text("status = 'queued'"),
        ),
        Index("ix_jobs_queued_deadline", "deadline_at", postgresql_where=text("status = 'queued'")),
        Index("ix_jobs_lease", "lease_until", postgresql_where=text("status = 'running'")),
        Index("ix_jobs_account", "account_id", "id"),
        Index("ix_jobs_account_status", "account_id", "status", "id"),
        Index("ix_jobs_set", "set_id", "id", postgresql_where=text("set_id IS NOT NULL")),
        Index(
            "ix_jobs_conversation",
            "account_id",
            "conversation",
            "id",
            postgresql_where=text("conversation IS NOT NULL"),
        ),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True)
    account_id: Mapped[UUID] = mapped_column(ForeignKey("accounts.id"))
    kind: Mapped[str]
    model: Mapped[str]
    version: Mapped[str]
    status: Mapped[str]
    priority: Mapped[int]
    parameters: Mapped[dict[str, Any]]
    # The column is named so because the declarative base owns the attribute "metadata".
    labels: Mapped[dict[str, str]] = mapped_column("metadata")
    webhook_url: Mapped[str | None]
    request_id: Mapped[str]
    set_id: Mapped[UUID | None] = mapped_column(ForeignKey("job_sets.id"))
    conversation: Mapped[str | None]  # the customer's name for one, of which this is a turn

    attempt: Mapped[int] = mapped_column(default=0)
    worker: Mapped[str | None]
    lease_until: Mapped[datetime | None]
    cancel_requested_at: Mapped[datetime | None]
    deadline_at: Mapped[datetime]
    message_at: Mapped[datetime] = mapped_column(server_default=func.now())

    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]

    finish_reason: Mapped[str | None]
    prompt_tokens: Mapped[int | None]
    completion_tokens: Mapped[int | None]
    error_code: Mapped[str | None]
    error_message: Mapped[str | None]


class JobSet(Base):
    """Jobs that were submitted together and are told of together: a batch of the native API.

    Its sums are always those of its jobs: each end of a job changes them in its transaction.
    """

    __tablename__ = "job_sets"
    __table_args__ = (
        CheckConstraint(
            "total = unfinished + succeeded + failed + cancelled + expired", name="adds_up"
        ),
        CheckConstraint("unfinished >= 0", name="not_negative"),
        CheckConstraint("(finished_at IS NOT NULL) = (unfinished = 0)", name="finished"),
        Index("ix_job_sets_account", "account_id", "id"),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True)
    account_id: Mapped[UUID] = mapped_column(ForeignKey("accounts.id"))
    labels: Mapped[dict[str, str]] = mapped_column("metadata")
    webhook_url: Mapped[str | None]
    total: Mapped[int]
    unfinished: Mapped[int]
    succeeded: Mapped[int] = mapped_column(default=0)
    failed: Mapped[int] = mapped_column(default=0)
    cancelled: Mapped[int] = mapped_column(default=0)
    expired: Mapped[int] = mapped_column(default=0)
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    finished_at: Mapped[datetime | None]


class Prompt(Base):
    """What the customer wrote: a prompt taken verbatim, or messages for the chat template."""

    __tablename__ = "prompts"
    __table_args__ = (CheckConstraint("(prompt IS NULL) <> (messages IS NULL)", name="one_of_two"),)

    job_id: Mapped[UUID] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    account_id: Mapped[UUID] = mapped_column(ForeignKey("accounts.id"), index=True)
    prompt: Mapped[str | None]
    messages: Mapped[list[dict[str, str]] | None]


class Output(Base):
    """What the model answered."""

    __tablename__ = "outputs"

    job_id: Mapped[UUID] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    account_id: Mapped[UUID] = mapped_column(ForeignKey("accounts.id"), index=True)
    text: Mapped[str]
    logprobs: Mapped[list[dict[str, Any]] | None]  # of each token, where they were asked for


class Attempt(Base):
    """One worker's try at a job."""

    __tablename__ = "attempts"
    __table_args__ = (CheckConstraint("(ended_at IS NULL) = (outcome = 'running')", name="ended"),)

    job_id: Mapped[UUID] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    account_id: Mapped[UUID] = mapped_column(ForeignKey("accounts.id"), index=True)
    worker: Mapped[str]
    started_at: Mapped[datetime] = mapped_column(server_default=func.now())
    ended_at: Mapped[datetime | None]
    outcome: Mapped[str]


class Counter(Base):
    """How often something happened that leaves no row of its own."""

    __tablename__ = "counters"

    name: Mapped[str] = mapped_column(primary_key=True)
    value: Mapped[int]


class IdempotencyKey(Base):
    """A client's key, the job it made, and a hash of the request that made it."""

    __tablename__ = "idempotency_keys"

    account_id: Mapped[UUID] = mapped_column(ForeignKey("accounts.id"), primary_key=True)
    key: Mapped[str] = mapped_column(primary_key=True)
    job_id: Mapped[UUID]
    request_hash: Mapped[bytes] = mapped_column(LargeBinary)
    created_at: Mapped[datetime] = mapped_column(server_default=func.now(), index=True)
