"""One row per worker process and model, renewed by its heartbeat."""

from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import CheckConstraint, func
from sqlalchemy.orm import Mapped, mapped_column

from app.db import Base


class WorkerState(StrEnum):
    """Where a worker stands with its model."""

    LOADING = "loading"  # for the first time, or again after its engine died: ``error`` says why
    READY = "ready"
    FAILED = "failed"  # the model could not be loaded; ``error`` says why
    STOPPED = "stopped"


class Worker(Base):
    """A generation worker and one model that it serves; alive while ``seen_at`` is fresh."""

    __tablename__ = "workers"
    __table_args__ = (
        CheckConstraint("state IN ('loading', 'ready', 'failed', 'stopped')", name="state"),
    )

    name: Mapped[str] = mapped_column(primary_key=True)
    model: Mapped[str] = mapped_column(primary_key=True)
    version: Mapped[str]
    state: Mapped[str]
    error: Mapped[str | None]
    slots: Mapped[int]
    running: Mapped[int]
    # What its engine says of itself: its ``name``, ``workers.engines.base.Stats``, and ``gpus``.
    engine: Mapped[dict[str, Any] | None]
    started_at: Mapped[datetime] = mapped_column(server_default=func.now())
    seen_at: Mapped[datetime] = mapped_column(server_default=func.now())
