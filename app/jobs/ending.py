"""What every end of a job does in its one transaction: status, result, money, webhook record."""

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.billing import ledger
from app.billing.tables import Charge
from app.jobs import transition
from app.jobs.document import JobDocument, render
from app.jobs.tables import Attempt, Job, Output
from app.jobs.transition import End
from app.rows import store
from app.webhooks import outbox

# Standard Webhooks asks for less than 20 kB; a longer answer is left to a GET.
_MAX_BODY_BYTES = 20_000


@dataclass(frozen=True, slots=True)
class Ended:
    """A job that reached its terminal state, and the webhook to send, if it wants one."""

    job_id: UUID
    delivery_id: UUID | None


def end(session: Session, ends: Sequence[End], *, base_url: str) -> list[Ended | None]:
    """End jobs: store what was generated, charge or release, and record the events.

    An answer for each, in their order: None where the job is not where the caller believed, and
    then nothing is stored, charged or sent.
    """
    done = transition.end(session, ends)
    outputs = [_output(job, how.text) for how, job in done if how.text is not None]
    store(session, (Output, outputs))
    charges = ledger.close(session, {job.id: how.usage for how, job in done})
    told = [(how, job) for how, job in done if job.webhook_url is not None]
    attempts = _attempts(session, [job for _, job in told])
    deliveries = outbox.record(
        session,
        [
            _event(job, charges[job.id], base_url, attempts.get(job.id, []), how.text)
            for how, job in told
        ],
    )
    ended = {id(how): Ended(job.id, deliveries.get(job.id)) for how, job in done}
    return [ended.get(id(each)) for each in ends]


def _output(job: Job, text: str) -> dict[str, Any]:
    return {"job_id": job.id, "account_id": job.account_id, "text": text}


def _attempts(session: Session, jobs: Collection[Job]) -> dict[UUID, list[Attempt]]:
    attempts: dict[UUID, list[Attempt]] = {}
    if any(job.attempt for job in jobs):
        query = select(Attempt).where(Attempt.job_id.in_([job.id for job in jobs]))
        for attempt in session.scalars(query.order_by(Attempt.number)):
            attempts.setdefault(attempt.job_id, []).append(attempt)
    return attempts


def _event(
    job: Job, charge: Charge, base_url: str, attempts: list[Attempt], text: str | None
) -> outbox.Event:
    output = None if text is None else Output(job_id=job.id, text=text)
    for shown in (output, None):
        document = render(job, charge, base_url=base_url, attempts=attempts, output=shown)
        body = _body(job, document)
        if len(body.encode()) < _MAX_BODY_BYTES:
            break
    return outbox.Event(
        account_id=job.account_id,
        job_id=job.id,
        type=f"job.{job.status}",
        url=job.webhook_url or "",
        body=body,
    )


def _body(job: Job, document: JobDocument) -> str:
    data = document.model_dump(mode="json")
    event = {"type": f"job.{job.status}", "timestamp": data["finished"], "data": data}
    return json.dumps(event, ensure_ascii=False, separators=(",", ":"))
