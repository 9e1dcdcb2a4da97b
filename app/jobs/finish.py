"""running -> succeeded, failed, cancelled, expired: result, charge and webhook in one transaction.

Every function names the lease. When the job has been given to another attempt since, it changes
nothing and raises LeaseLost: nothing is stored, charged or sent.

Who pays is published in ``docs/billing.md``.
"""

from dataclasses import dataclass

from sqlalchemy.orm import Session

from app.billing.prices import Usage
from app.errors import LeaseLost
from app.jobs.claim import Lease
from app.jobs.ending import Ended, charge_and_record, release_and_record
from app.jobs.states import Outcome, Status
from app.jobs.tables import Job, Output
from app.jobs.transition import end_attempt, move


@dataclass(frozen=True, slots=True)
class Result:
    """What an engine made of the job; ``finish_reason`` as in ``workers.engines.base``."""

    text: str
    finish_reason: str
    usage: Usage


_STATUS = {
    "stop": Status.SUCCEEDED,
    "length": Status.SUCCEEDED,
    "cancelled": Status.CANCELLED,
    "deadline": Status.EXPIRED,
}


def finish(session: Session, lease: Lease, result: Result, *, base_url: str) -> Ended:
    """Store what was generated and charge for it; a cancelled or late job pays for its part."""
    status = _STATUS[result.finish_reason]
    job = move(
        session,
        lease.job_id,
        source=Status.RUNNING,
        target=status,
        fence=lease.attempt,
        finish_reason=result.finish_reason,
        prompt_tokens=result.usage.prompt_tokens,
        completion_tokens=result.usage.completion_tokens,
    )
    job = _still_ours(job)
    end_attempt(session, job, Outcome(status.value))
    output = Output(job_id=job.id, account_id=job.account_id, text=result.text)
    session.add(output)
    return charge_and_record(session, job, result.usage, base_url=base_url, output=output)


def fail(session: Session, lease: Lease, *, code: str, message: str, base_url: str) -> Ended:
    """Say why there is no result; nothing is charged."""
    job = move(
        session,
        lease.job_id,
        source=Status.RUNNING,
        target=Status.FAILED,
        fence=lease.attempt,
        error_code=code,
        error_message=message,
    )
    job = _still_ours(job)
    end_attempt(session, job, Outcome.FAILED)
    return release_and_record(session, job, base_url=base_url)


def _still_ours(job: Job | None) -> Job:
    if job is None:
        raise LeaseLost
    return job
