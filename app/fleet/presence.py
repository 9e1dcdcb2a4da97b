"""Workers report themselves; the API reads who is there."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from sqlalchemy import Interval, bindparam, func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from app.fleet.tables import Worker, WorkerState


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a worker says of itself."""

    name: str
    model: str
    version: str
    state: WorkerState
    error: str | None = None
    slots: int = 0
    running: int = 0
    engine: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class EnginePresence:
    """The engine of a live worker: its slots and what else it said, by name. A worker of another
    version may say less.
    """

    worker: str
    figures: dict[str, Any]


@dataclass(slots=True)
class ModelPresence:
    """The workers of one model: how many are in each state, the errors of those that cannot work,
    and the engines of the live ones.
    """

    workers: Counter[str] = field(default_factory=Counter)
    errors: list[str] = field(default_factory=list)
    engines: list[EnginePresence] = field(default_factory=list)


def report(session: Session, said: Report) -> None:
    """Write down what a worker says of itself, as of now."""
    values = {
        "version": said.version,
        "state": said.state,
        "error": said.error,
        "slots": said.slots,
        "running": said.running,
        "engine": said.engine,
        "seen_at": func.now(),
    }
    session.execute(
        insert(Worker)
        .values(name=said.name, model=said.model, **values)
        .on_conflict_do_update(index_elements=[Worker.name, Worker.model], set_=values)
    )


def by_model(session: Session, fresh_seconds: float) -> dict[str, ModelPresence]:
    """The workers of each model.

    Loading and ready workers count while their last report is at most ``fresh_seconds`` old. A
    failed one counts for ten minutes: its process is gone, but its reason is what the reader needs.
    """
    presence: dict[str, ModelPresence] = {}
    for worker in _recent(session, fresh_seconds):
        of_model = presence.setdefault(worker.model, ModelPresence())
        of_model.workers[worker.state] += 1
        if worker.error:
            of_model.errors.append(worker.error)
        if worker.engine is not None and worker.state != WorkerState.FAILED:
            figures = {"slots": worker.slots, **worker.engine}
            of_model.engines.append(EnginePresence(worker.name, figures))
    return presence


_FRESH = Worker.seen_at > func.now() - bindparam("fresh", type_=Interval)
_FAILED = (Worker.state == WorkerState.FAILED) & (
    Worker.seen_at > func.now() - timedelta(minutes=10)
)
_RECENT = (
    select(Worker)
    .where(Worker.state.in_([WorkerState.LOADING, WorkerState.READY]) & _FRESH | _FAILED)
    .order_by(Worker.name)
)


def _recent(session: Session, fresh_seconds: float) -> Sequence[Worker]:
    return session.scalars(_RECENT, {"fresh": timedelta(seconds=fresh_seconds)}).all()
