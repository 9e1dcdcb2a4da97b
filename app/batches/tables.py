"""Batches and their lines."""

from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

from sqlalchemy import CheckConstraint, ForeignKey, Index, LargeBinary, UniqueConstraint, func, text
from sqlalchemy.orm import Mapped, mapped_column

from app.db import Base


class State(StrEnum):
    """Where a batch stands."""

    VALIDATING = "validating"  # its file is read
    FAILED = "failed"  # its file is no batch
    IN_PROGRESS = "in_progress"  # its lines become jobs
    FINALIZING = "finalizing"  # all have ended; output and errors are written
    COMPLETED = "completed"
    EXPIRED = "expired"
    CANCELLING = "cancelling"  # no more lines become jobs, and those that have end; then as above
    CANCELLED = "cancelled"


OPEN = (State.VALIDATING, State.IN_PROGRESS, State.FINALIZING, State.CANCELLING)
_OPEN = text("state IN ('validating', 'in_progress', 'finalizing', 'cancelling')")


class Batch(Base):
    """One batch: what was asked, its cursors, and its sums, which are always those of its lines."""

    __tablename__ = "batches"
    __table_args__ = (
        CheckConstraint(
            "state IN ('validating', 'failed', 'in_progress', 'finalizing', 'completed', 'expired',"
            " 'cancelling', 'cancelled')",
            name="state",
        ),
        CheckConstraint("ending IN ('completed', 'expired', 'cancelled')", name="ending"),
        CheckConstraint("lines = waiting + running + completed + failed", name="adds_up"),
        CheckConstraint("waiting >= 0 AND running >= 0", name="not_negative"),
        UniqueConstraint("account_id", "idempotency_key"),
        Index("ix_batches_account", "account_id", "id"),
        Index("ix_batches_due", "look_at", postgresql_where=_OPEN),
        Index("ix_batches_input", "input_file_id", postgresql_where=_OPEN),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True)
    account_id: Mapped[UUID] = mapped_column(ForeignKey("accounts.id"))
    key_id: Mapped[str]
    endpoint: Mapped[str]
    input_file_id: Mapped[UUID]
    model: Mapped[str | None]
    # The column is named so because the declarative base owns the attribute "metadata".
    labels: Mapped[dict[str, str]] = mapped_column("metadata")
    output_expires_seconds: Mapped[int | None]
    request_hash: Mapped[bytes] = mapped_column(LargeBinary)
    idempotency_key: Mapped[str | None]

    state: Mapped[str]
    ending: Mapped[str | None]  # what it becomes when its files are written
    errors: Mapped[list[dict[str, Any]] | None]
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime]
    in_progress_at: Mapped[datetime | None]
    finalizing_at: Mapped[datetime | None]
    completed_at: Mapped[datetime | None]
    failed_at: Mapped[datetime | None]
    expired_at: Mapped[datetime | None]
    cancelling_at: Mapped[datetime | None]
    cancelled_at: Mapped[datetime | None]

    look_at: Mapped[datetime] = mapped_column(server_default=func.now())
    pause_ms: Mapped[int] = mapped_column(default=0)
    lacks_credit: Mapped[bool] = mapped_column(default=False)  # for its next lines

    read_bytes: Mapped[int] = mapped_column(default=0)  # of the input
    read_lines: Mapped[int] = mapped_column(default=0)  # empty ones as well
    written_lines: Mapped[int] = mapped_column(default=0)  # the last that is in a file

    lines: Mapped[int] = mapped_column(default=0)
    waiting: Mapped[int] = mapped_column(default=0)  # to become jobs
    running: Mapped[int] = mapped_column(default=0)  # jobs that have not been seen to end
    completed: Mapped[int] = mapped_column(default=0)
    failed: Mapped[int] = mapped_column(default=0)
    prompt_tokens: Mapped[int] = mapped_column(default=0)
    completion_tokens: Mapped[int] = mapped_column(default=0)

    output_file_id: Mapped[UUID | None]
    error_file_id: Mapped[UUID | None]


class LineState(StrEnum):
    """Where a line stands."""

    WAITING = "waiting"  # without a job
    RUNNING = "running"  # with a job that was not seen to end
    COMPLETED = "completed"
    FAILED = "failed"


class BatchLine(Base):
    """A line of a batch: where it is in the input, its job, or why it has none."""

    __tablename__ = "batch_lines"
    __table_args__ = (
        CheckConstraint("state IN ('waiting', 'running', 'completed', 'failed')", name="state"),
        CheckConstraint("state IN ('waiting', 'failed') OR job_id IS NOT NULL", name="has_a_job"),
        CheckConstraint("job_id IS NULL OR error IS NULL", name="job_or_error"),
        UniqueConstraint("batch_id", "custom_id"),
        UniqueConstraint("job_id"),
        Index(
            "ix_batch_lines_waiting",
            "batch_id",
            "number",
            postgresql_where=text("state = 'waiting'"),
        ),
        Index(
            "ix_batch_lines_running",
            "batch_id",
            "number",
            postgresql_where=text("state = 'running'"),
        ),
    )

    batch_id: Mapped[UUID] = mapped_column(ForeignKey("batches.id"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)  # of the line in the file, from 1
    account_id: Mapped[UUID] = mapped_column(ForeignKey("accounts.id"))
    custom_id: Mapped[str]
    first_byte: Mapped[int]
    bytes: Mapped[int]
    state: Mapped[str] = mapped_column(default=LineState.WAITING)
    job_id: Mapped[UUID | None]
    error: Mapped[dict[str, Any] | None]  # as it is written: an answer with a status and a body
