"""Reading jobs: one, or a page of them. Every query names the account."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import BindParameter, Select, bindparam, select
from sqlalchemy.orm import Session, defer

from app.billing.tables import Charge
from app.errors import JobNotFound
from app.jobs.document import JobDocument, render
from app.jobs.states import Status
from app.jobs.tables import Attempt, Job, Output
from app.jobs.waiting import why_waiting
from app.webhooks.tables import Delivery


def owned_job(session: Session, account_id: UUID, job_id: UUID, *, lock: bool = False) -> Job:
    """The account's job of that id; raises JobNotFound, also when it is another account's."""
    query = select(Job).where(Job.id == job_id, Job.account_id == account_id)
    job = session.scalars(query.with_for_update() if lock else query).one_or_none()
    if job is None:
        raise JobNotFound
    return job


_SOME: BindParameter[UUID] = bindparam("jobs", expanding=True)
_STANDINGS = select(Job.id, Job.status, Job.attempt).where(Job.id.in_(_SOME))
_JOBS = select(Job).where(Job.id.in_(_SOME))
_CHARGES = select(Charge).where(Charge.job_id.in_(_SOME))
_OUTPUTS = select(Output).where(Output.job_id.in_(_SOME))
# A hundred jobs' log-probabilities would make a page of many megabytes.
_TEXTS = select(Output.job_id, Output.text).where(Output.job_id.in_(_SOME))
_ATTEMPTS = select(Attempt).where(Attempt.job_id.in_(_SOME)).order_by(Attempt.number)
_DELIVERIES = (
    select(Delivery)
    .options(defer(Delivery.body))
    .where(Delivery.job_id.in_(_SOME), Delivery.subscription_id.is_(None))
)


class Standing(NamedTuple):
    """How far a job has come."""

    status: Status
    attempt: int

    @property
    def progress(self) -> tuple[int, bool]:
        """Grows with time: a job goes back to the queue with the attempt that it had."""
        return self.attempt, self.status is Status.QUEUED


def standings(session: Session, job_ids: Collection[UUID]) -> dict[UUID, Standing]:
    """How these jobs stand; one that is not there is not in it."""
    rows = session.execute(_STANDINGS, {"jobs": list(job_ids)})
    return {row.id: Standing(Status(row.status), row.attempt) for row in rows}


Outputs = dict[UUID, Output]


class Owned(NamedTuple):
    """A job, and the account that asks for it."""

    account_id: UUID
    job_id: UUID


def read(
    session: Session, wanted: Sequence[Owned], *, base_url: str, fresh_seconds: float
) -> list[JobDocument | JobNotFound]:
    """Whole jobs, in the order asked for; JobNotFound also for those of other accounts."""
    rows = session.scalars(_JOBS, {"jobs": list({each.job_id for each in wanted})})
    jobs = {Owned(job.account_id, job.id): job for job in rows}
    theirs = [jobs[each] for each in dict.fromkeys(wanted) if each in jobs]
    outputs = _outputs(session, theirs)
    found = _documents(session, theirs, outputs, base_url=base_url, fresh_seconds=fresh_seconds)
    documents = {document.id: document for document in found}
    return [documents[each.job_id] if each in jobs else JobNotFound() for each in wanted]


class Result(NamedTuple):
    """What became of a job; whether there are log-probabilities, and they were not read."""

    document: JobDocument
    lacks_logprobs: bool


def results(
    session: Session, job_ids: Collection[UUID], *, base_url: str, logprobs: bool = False
) -> dict[UUID, Result]:
    """What became of jobs, whoever owns them; without their attempts and webhooks."""
    ids = {"jobs": list(job_ids)}
    jobs = session.scalars(_JOBS, ids).all()
    outputs = _outputs(session, jobs) if logprobs else _texts(session, jobs)
    charges = {charge.job_id: charge for charge in session.scalars(_CHARGES, ids)}
    return {
        job.id: Result(
            render(
                job, charges[job.id], base_url=base_url, attempts=[], output=outputs.get(job.id)
            ),
            lacks_logprobs=not logprobs and bool(job.parameters.get("logprobs")),
        )
        for job in jobs
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Which jobs to list: newest first, those older than ``after``, ``limit`` at most."""

    status: str | None = None
    model: str | None = None
    set_id: UUID | None = None
    after: UUID | None = None
    limit: int = 20


def page(
    session: Session, account_id: UUID, wanted: Filter, *, base_url: str, fresh_seconds: float
) -> tuple[list[JobDocument], bool]:
    """One page of an account's jobs, without log-probabilities, and whether there are more."""
    query = select(Job).where(Job.account_id == account_id).order_by(Job.id.desc())
    jobs = session.scalars(_narrowed(query, wanted).limit(wanted.limit + 1)).all()
    shown = jobs[: wanted.limit]
    outputs = _texts(session, shown)
    documents = _documents(session, shown, outputs, base_url=base_url, fresh_seconds=fresh_seconds)
    return documents, len(jobs) > wanted.limit


def _narrowed(query: Select[Job], wanted: Filter) -> Select[Job]:
    if wanted.status is not None:
        query = query.where(Job.status == wanted.status)
    if wanted.model is not None:
        query = query.where(Job.model == wanted.model)
    if wanted.set_id is not None:
        query = query.where(Job.set_id == wanted.set_id)
    if wanted.after is not None:
        query = query.where(Job.id < wanted.after)
    return query


def _outputs(session: Session, jobs: Sequence[Job]) -> Outputs:
    rows = session.scalars(_OUTPUTS, {"jobs": [job.id for job in jobs]})
    return {output.job_id: output for output in rows}


def _texts(session: Session, jobs: Sequence[Job]) -> Outputs:
    rows = session.execute(_TEXTS, {"jobs": [job.id for job in jobs]})
    return {row.job_id: Output(job_id=row.job_id, text=row.text) for row in rows}


def _documents(
    session: Session,
    jobs: Sequence[Job],
    outputs: Outputs,
    *,
    base_url: str,
    fresh_seconds: float,
) -> list[JobDocument]:
    ids = {"jobs": [job.id for job in jobs]}
    charges = {charge.job_id: charge for charge in session.scalars(_CHARGES, ids)}
    attempts: dict[UUID, list[Attempt]] = {}
    for attempt in session.scalars(_ATTEMPTS, ids):
        attempts.setdefault(attempt.job_id, []).append(attempt)
    deliveries = _deliveries(session, jobs)
    waiting = why_waiting(session, jobs, fresh_seconds)
    return [
        render(
            job,
            charges[job.id],
            base_url=base_url,
            attempts=attempts.get(job.id, []),
            output=outputs.get(job.id),
            waiting=waiting.get(job.id),
            delivery=deliveries.get(job.id),
        )
        for job in jobs
    ]


def _deliveries(session: Session, jobs: Sequence[Job]) -> dict[UUID, Delivery]:
    told = [job.id for job in jobs if job.finished_at is not None and job.webhook_url is not None]
    if not told:
        return {}
    rows = session.scalars(_DELIVERIES, {"jobs": told})
    return {delivery.job_id: delivery for delivery in rows if delivery.job_id is not None}
