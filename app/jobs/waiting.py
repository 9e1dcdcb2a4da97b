"""Why a queued job has not started yet, and how many are before it."""

import math
from collections.abc import Collection, Sequence
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import ColumnElement, ScalarSelect, bindparam, case, func, select
from sqlalchemy.orm import Session

from app.fleet.presence import ModelPresence, by_model
from app.fleet.tables import WorkerState
from app.jobs.document import Reason, WaitingDocument
from app.jobs.states import Status
from app.jobs.tables import Job

# Nobody waits differently behind 1,000 jobs than behind 2,000, but counting takes longer.
COUNTED_AT_MOST = 1000


class Place(NamedTuple):
    """Where a job waits."""

    model: str
    version: str
    priority: int


# What an operator or a customer is told of a job that could not start.
WHY: dict[str, str] = {
    "in_queue": "its workers were busy with others",
    "no_worker": "no worker serves this version of the model",
    "model_loading": "its worker was still loading the model",
    "worker_restarting": "its worker's engine was being started again after a crash",
    "model_failed": "its worker could not load the model",
}

_QUEUED = (Job.status == Status.QUEUED, Job.model == bindparam("of_model"))
_IN_ORDER = (Job.priority.desc(), Job.id)
_FIRST = (
    select(Job.id, (func.row_number().over(order_by=_IN_ORDER) - 1).label("position"))
    .where(*_QUEUED)
    .order_by(*_IN_ORDER)
    .limit(COUNTED_AT_MOST)
    .subquery()
)
# A job that was claimed since it was read waits for nobody any more.
_POSITION = case(
    (Job.status != Status.QUEUED, 0), else_=func.coalesce(_FIRST.c.position, COUNTED_AT_MOST)
)
_POSITIONS = (
    select(Job.id, _POSITION.label("position"))
    .outerjoin(_FIRST, _FIRST.c.id == Job.id)
    .where(Job.id.in_(bindparam("jobs", expanding=True)))
)


def why_waiting(
    session: Session, jobs: Sequence[Job], fresh_seconds: float
) -> dict[UUID, WaitingDocument]:
    """What those of these jobs that are queued wait for."""
    queued = [job for job in jobs if job.status == Status.QUEUED]
    if not queued:
        return {}
    presence = by_model(session, fresh_seconds)
    positions: dict[UUID, int] = {}
    for model in {job.model for job in queued}:
        ids = [job.id for job in queued if job.model == model]
        found = session.execute(_POSITIONS, {"of_model": model, "jobs": ids})
        positions |= {row.id: row.position for row in found}
    return {
        job.id: _waiting(presence.get(job.model), job.version, positions[job.id]) for job in queued
    }


def at_the_end(
    session: Session, places: Collection[Place], fresh_seconds: float
) -> dict[Place, WaitingDocument]:
    """What a job that joins the queue now will wait for."""
    presence = by_model(session, fresh_seconds)
    return {
        place: _waiting(presence.get(place.model), place.version, _before(session, place))
        for place in places
    }


def reason(presence: ModelPresence | None, version: str) -> Reason:
    """Why a job of this version has not started."""
    versions = presence.versions if presence else {}
    if version in versions.get(WorkerState.READY, ()):
        return "in_queue"
    if presence and version in presence.restarting:
        return "worker_restarting"
    if version in versions.get(WorkerState.LOADING, ()):
        return "model_loading"
    return "model_failed" if version in versions.get(WorkerState.FAILED, ()) else "no_worker"


def _waiting(presence: ModelPresence | None, version: str, position: int) -> WaitingDocument:
    why = reason(presence, version)
    eta = _eta(presence, position) if why == "in_queue" else None
    return WaitingDocument(reason=why, position=position, eta_seconds=eta)


def _eta(presence: ModelPresence | None, position: int) -> int | None:
    """Seconds until so many before it have left a slot free, at the workers' recent speed."""
    if presence is None or presence.job_seconds is None or not presence.slots:
        return None
    ahead = position + 1 - (presence.slots - presence.running)
    return math.ceil(max(0, ahead) * presence.job_seconds / presence.slots)


def _count(*which: ColumnElement[bool]) -> ScalarSelect[int]:
    some = select(Job.id).where(*_QUEUED, *which).limit(COUNTED_AT_MOST).subquery()
    return select(func.count()).select_from(some).scalar_subquery()


# Two counts, because each is then one range of the queue's index.
_BEFORE = select(
    _count(Job.priority > bindparam("of_priority"))
    + _count(Job.priority == bindparam("of_priority"))
)


def _before(session: Session, place: Place) -> int:
    """How many jobs a worker takes before a new one: those of a higher or the same priority."""
    found = session.scalar(_BEFORE, {"of_model": place.model, "of_priority": place.priority})
    return min(found or 0, COUNTED_AT_MOST)
