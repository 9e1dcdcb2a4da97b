"""Why a queued job has not started yet, and how many are before it."""

from collections.abc import Collection, Sequence
from uuid import UUID

from sqlalchemy import ColumnElement, ScalarSelect, bindparam, func, select
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
            position=_before(session, (job.model, job.priority), job.id),
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
    some = select(Job.id).where(
        Job.status == Status.QUEUED, Job.model == bindparam("of_model"), *which
    )
    return (
        select(func.count()).select_from(some.limit(COUNTED_AT_MOST).subquery()).scalar_subquery()
    )


_URGENT = _count(Job.priority > bindparam("of_priority"))
_EQUAL = _count(Job.priority == bindparam("of_priority"))
_OLDER = _count(Job.priority == bindparam("of_priority"), Job.id < bindparam("than_job"))
# Two counts each, because each is then one range of the queue's index.
_BEFORE_NEW = select(_URGENT + _EQUAL)
_BEFORE_JOB = select(_URGENT + _OLDER)


def _before(session: Session, place: Place, job_id: UUID | None = None) -> int:
    """How many jobs a worker takes first: those of a higher priority, then the older ones of the
    same, which for a new job are all.
    """
    parameters = {"of_model": place[0], "of_priority": place[1]}
    if job_id is None:
        found = session.scalar(_BEFORE_NEW, parameters)
    else:
        found = session.scalar(_BEFORE_JOB, {**parameters, "than_job": job_id})
    return min(found or 0, COUNTED_AT_MOST)
