"""Why a queued job has not started yet, and how many are before it."""

from collections.abc import Collection, Sequence
from uuid import UUID

from sqlalchemy import ColumnElement, ScalarSelect, func, select
from sqlalchemy.orm import Session

from app.fleet.presence import ModelPresence, by_model
from app.fleet.tables import WorkerState
from app.jobs.document import WaitingDocument
from app.jobs.states import Status
from app.jobs.tables import Job

# Nobody waits differently behind 1,000 jobs than behind 2,000, but counting takes longer.
COUNTED_AT_MOST = 1000

Place = tuple[str, int]  # a model and a priority


def why_waiting(
    session: Session, jobs: Sequence[Job], fresh_seconds: float
) -> dict[UUID, WaitingDocument]:
    """What those of these jobs that are queued wait for."""
    queued = [job for job in jobs if job.status == Status.QUEUED]
    if not queued:
        return {}
    presence = by_model(session, fresh_seconds)
    return {
        job.id: WaitingDocument(
            reason=_reason(presence.get(job.model)),
            position=_before(session, (job.model, job.priority), Job.id < job.id),
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


def _before(session: Session, place: Place, *older: ColumnElement[bool]) -> int:
    """How many jobs a worker takes first: those of a higher priority, then the older ones of the
    same. Two counts, because each is then one range of the queue's index.
    """
    model, priority = place
    urgent = _count(Job.model == model, Job.priority > priority)
    equal = _count(Job.model == model, Job.priority == priority, *older)
    return min(session.scalar(select(urgent + equal)) or 0, COUNTED_AT_MOST)


def _count(*which: ColumnElement[bool]) -> ScalarSelect[int]:
    some = select(Job.id).where(Job.status == Status.QUEUED, *which).limit(COUNTED_AT_MOST)
    return select(func.count()).select_from(some.subquery()).scalar_subquery()
