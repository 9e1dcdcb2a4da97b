"""Why a queued job has not started yet, and how many are before it."""

from collections.abc import Collection, Sequence
from uuid import UUID

from sqlalchemy import ColumnElement, ScalarSelect, bindparam, case, func, select
from sqlalchemy.orm import Session

from app.fleet.presence import ModelPresence, by_model
from app.fleet.tables import WorkerState
from app.jobs.document import WaitingDocument
from app.jobs.states import Status
from app.jobs.tables import Job

# Nobody waits differently behind 1,000 jobs than behind 2,000, but counting takes longer.
COUNTED_AT_MOST = 1000

Place = tuple[str, int]  # a model and a priority


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
        job.id: WaitingDocument(
            reason=_reason(presence.get(job.model)),
            position=positions[job.id],
        )
        for job in queued
    }


def at_the_end(
    session: Session, places: Collection[Place], fresh_seconds: float
) -> dict[Place, WaitingDocument]:
    """What a job that joins the queue now will wait for."""
    presence = by_model(session, fresh_seconds)
    return {
        place: WaitingDocument(
            reason=_reason(presence.get(place[0])), position=_before(session, place)
        )
        for place in places
    }


def _reason(presence: ModelPresence | None) -> str:
    workers = presence.workers if presence else {}
    if workers.get(WorkerState.READY):
        return "in_queue"
    if workers.get(WorkerState.LOADING):
        return "model_loading"
    if workers.get(WorkerState.FAILED):
        return "model_failed"
    return "no_worker"


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
    model, priority = place
    found = session.scalar(_BEFORE, {"of_model": model, "of_priority": priority})
    return min(found or 0, COUNTED_AT_MOST)
