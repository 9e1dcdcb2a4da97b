"""running -> queued or failed, for jobs whose worker stopped renewing the lease.

Lost attempts are never charged. A job that keeps losing its worker is failed after
``max_attempts``; the count lives in the database, so no broker can forget it. A job whose cancel
its dead worker never saw ends as cancelled.
"""

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.jobs.ending import Ended, release_and_record
from app.jobs.states import Outcome, Status
from app.jobs.tables import Job
from app.jobs.transition import end_attempt, in_lock_order, move


def rescue(session: Session, *, max_attempts: int, base_url: str, limit: int = 100) -> list[Ended]:
    """Take back jobs from lost workers; returns those that ended by it."""
    ended = []
    for job in _lost(session, limit):
        if job.cancel_requested_at is not None:
            ended.append(_cancel(session, job, base_url))
        elif job.attempt >= max_attempts:
            ended.append(_bury(session, job, base_url))
        else:
            _requeue(session, job)
    return [each for each in ended if each is not None]


def _lost(session: Session, limit: int) -> list[Job]:
    lost = session.scalars(
        select(Job)
        .where(Job.status == Status.RUNNING, Job.lease_until < func.now())
        .order_by(Job.lease_until)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    return in_lock_order(lost)


def _requeue(session: Session, job: Job) -> None:
    end_attempt(session, job, Outcome.LOST)
    # Its message is gone with its worker; an old message_at lets the sweep send another at once.
    move(
        session,
        job.id,
        source=Status.RUNNING,
        target=Status.QUEUED,
        fence=job.attempt,
        worker=None,
        message_at=Job.created_at,
    )


def _bury(session: Session, job: Job, base_url: str) -> Ended | None:
    end_attempt(session, job, Outcome.LOST)
    buried = move(
        session,
        job.id,
        source=Status.RUNNING,
        target=Status.FAILED,
        fence=job.attempt,
        error_code="worker_lost",
        error_message=f"Its worker was lost {job.attempt} times; it was not started again.",
    )
    return release_and_record(session, buried, base_url=base_url) if buried else None


def _cancel(session: Session, job: Job, base_url: str) -> Ended | None:
    end_attempt(session, job, Outcome.LOST)
    gone = move(session, job.id, source=Status.RUNNING, target=Status.CANCELLED, fence=job.attempt)
    return release_and_record(session, gone, base_url=base_url) if gone else None
