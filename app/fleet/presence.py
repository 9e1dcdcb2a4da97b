"""Workers report themselves; the API reads who is there."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from datetime import timedelta
from typing import Any

from sqlalchemy import Interval, bindparam, func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from app.fleet.tables import Worker, WorkerState


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a worker says of itself and one model. Of an adapter it names no ``engine``: that is its
    base's, and counts once.
    """

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
    and the engines of the live ones; by state the versions that they have, and those whose engine
    died and is being started again; of the ready ones the slots together, and how many seconds a
    job took of late, if they have done any.
    """

    workers: Counter[str] = field(default_factory=Counter)
    errors: list[str] = field(default_factory=list)
    engines: list[EnginePresence] = field(default_factory=list)
    versions: dict[str, set[str]] = field(default_factory=dict)
    restarting: set[str] = field(default_factory=set)
    slots: int = 0
    running: int = 0
    job_seconds: float | None = None


def report(session: Session, said: Sequence[Report]) -> None:
    """Write down what a worker says of itself and its models, as of now."""
    rows = insert(Worker).values([asdict(each) for each in said])
    keys = {"name", "model"}
    values = {
        each.name: rows.excluded[each.name] for each in fields(Report) if each.name not in keys
    }
    session.execute(
        rows.on_conflict_do_update(index_elements=keys, set_={**values, "seen_at": func.now()})
    )


def has_died(session: Session, name: str, model: str) -> bool:
    """Whether a worker of this name was last heard of at work: it did not stop by itself."""
    state = session.scalar(select(Worker.state).where(Worker.name == name, Worker.model == model))
    return state in {WorkerState.LOADING, WorkerState.READY}


def by_model(session: Session, fresh_seconds: float) -> dict[str, ModelPresence]:
    """The workers of each model.

    Loading and ready workers count while their last report is at most ``fresh_seconds`` old. A
    failed one counts for ten minutes: its process is gone, but its reason is what the reader needs.
    """
    presence: dict[str, ModelPresence] = {}
    for worker in _recent(session, fresh_seconds):
        of_model = presence.setdefault(worker.model, ModelPresence())
        of_model.workers[worker.state] += 1
        of_model.versions.setdefault(worker.state, set()).add(worker.version)
        if worker.error:
            of_model.errors.append(worker.error)
            if worker.state == WorkerState.LOADING:
                of_model.restarting.add(worker.version)
        if worker.engine is not None and worker.state != WorkerState.FAILED:
            figures = {"slots": worker.slots, **worker.engine}
            of_model.engines.append(EnginePresence(worker.name, figures))
        if worker.state == WorkerState.READY:
            _add_ready(of_model, worker)
    return presence


def _add_ready(of_model: ModelPresence, worker: Worker) -> None:
    of_model.slots += worker.slots
    of_model.running += worker.running
    seconds = (worker.engine or {}).get("job_seconds")
    if seconds is not None:  # the slowest, so that nobody is promised too much
        of_model.job_seconds = max(seconds, of_model.job_seconds or 0.0)


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
