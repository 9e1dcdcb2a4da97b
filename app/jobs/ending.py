"""What every end of a job does in its one transaction: money, then the webhook record."""

import json
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.billing import ledger
from app.billing.prices import Usage
from app.billing.tables import Charge
from app.jobs.document import render
from app.jobs.tables import Attempt, Job, Output
from app.webhooks import outbox

# Standard Webhooks asks for less than 20 kB; a longer answer is left to a GET.
_MAX_BODY_BYTES = 20_000


@dataclass(frozen=True, slots=True)
class Ended:
    """A job that reached its terminal state, and the webhook to send, if it wants one."""

    job_id: UUID
    delivery_id: UUID | None


def charge_and_record(
    session: Session, job: Job, usage: Usage, *, base_url: str, output: Output | None
) -> Ended:
    """Charge for the usage and record the event."""
    return _record(session, job, ledger.settle(session, job.id, usage), base_url, output)


def release_and_record(session: Session, job: Job, *, base_url: str) -> Ended:
    """Give the hold back and record the event."""
    return _record(session, job, ledger.release(session, job.id), base_url, None)


def _record(
    session: Session, job: Job, charge: Charge, base_url: str, output: Output | None
) -> Ended:
    if job.webhook_url is None:
        return Ended(job.id, None)
    delivery_id = outbox.record(
        session,
        account_id=job.account_id,
        job_id=job.id,
        event_type=f"job.{job.status}",
        url=job.webhook_url,
        body=_event(session, job, charge, base_url, output),
    )
    return Ended(job.id, delivery_id)


def _event(session: Session, job: Job, charge: Charge, base_url: str, output: Output | None) -> str:
    session.flush()
    attempts = list(
        session.scalars(select(Attempt).where(Attempt.job_id == job.id).order_by(Attempt.number))
    )
    for text in (output, None):
        data = render(job, charge, base_url=base_url, attempts=attempts, output=text)
        document = data.model_dump(mode="json")
        event = {
            "type": f"job.{job.status}",
            "timestamp": document["finished"],
            "data": document,
        }
        body = json.dumps(event, ensure_ascii=False, separators=(",", ":"))
        if len(body.encode()) < _MAX_BODY_BYTES:
            break
    return body
