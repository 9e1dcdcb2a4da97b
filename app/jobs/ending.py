"""What every end of a job does in its one transaction: status, result, money, webhook record."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.billing import ledger, usage
from app.billing.tables import Charge
from app.billing.usage import Used
from app.jobs import transition
from app.jobs.document import EventDocument, JobDocument, render
from app.jobs.tables import Attempt, Output
from app.jobs.transition import Done, End
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
    outputs = [_output(each) for each in done if each.how.text is not None]
    store(session, (Output, outputs))
    charges = ledger.close(session, {each.job.id: each.how.usage for each in done})
    usage.add(session, [_used(each, charges[each.job.id]) for each in done])
    told = [each for each in done if each.job.webhook_url is not None]
    attempts = _attempts(session, told)
    deliveries = outbox.record(
        session,
        [_event(each, charges[each.job.id], base_url, attempts[each.job.id]) for each in told],
    )
    ended = {id(each.how): Ended(each.job.id, deliveries.get(each.job.id)) for each in done}
    return [ended.get(id(each)) for each in ends]


def _used(done: Done, charge: Charge) -> Used:
    return Used(model=done.job.model, status=done.job.status, usage=done.how.usage, charge=charge)


def _output(done: Done) -> dict[str, Any]:
    return {
        "job_id": done.job.id,
        "account_id": done.job.account_id,
        "text": done.how.text,
        "logprobs": done.how.logprobs,
    }


def _attempts(session: Session, done: Collection[Done]) -> dict[UUID, list[Attempt]]:
    """All attempts of each job: the one that ended it, which is at hand, and those before."""
    attempts = {each.job.id: [each.attempt] if each.attempt else [] for each in done}
    more = [each.job.id for each in done if each.job.attempt > len(attempts[each.job.id])]
    if more:
        attempts |= {job_id: [] for job_id in more}
        query = select(Attempt).where(Attempt.job_id.in_(more))
        for attempt in session.scalars(query.order_by(Attempt.number)):
            attempts[attempt.job_id].append(attempt)
    return attempts


def _event(done: Done, charge: Charge, base_url: str, attempts: list[Attempt]) -> outbox.Event:
    job, text = done.job, done.how.text
    # Without the log-probabilities, which no body of that size could hold.
    output = None if text is None else Output(job_id=job.id, text=text)
    for shown in (output, None):
        document = render(job, charge, base_url=base_url, attempts=attempts, output=shown)
        body = _body(document)
        if len(body.encode()) < _MAX_BODY_BYTES:
            break
    return outbox.Event(
        account_id=job.account_id,
        job_id=job.id,
        type=f"job.{job.status}",
        url=job.webhook_url or "",
        body=body,
    )


def _body(document: JobDocument) -> str:
    assert document.finished is not None
    event = EventDocument(type=f"job.{document.status}", timestamp=document.finished, data=document)
    return event.model_dump_json()
