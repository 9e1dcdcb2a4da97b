"""running -> succeeded, failed, cancelled, expired: result, charge and webhook in one transaction.

Every end names the lease. Where the job has been given to another attempt since, the answer is
LeaseLost: nothing is stored, charged or sent.

Who pays is published in ``docs/billing.md``.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy.orm import Session

from app.billing.prices import Usage
from app.errors import LeaseLost
from app.jobs import ending
from app.jobs.ending import Ended
from app.jobs.states import Outcome, Status
from app.jobs.transition import End, Lease


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


def succeeded(lease: Lease, result: Result) -> End:
    """What was generated is charged for; a cancelled or late job pays for its part."""
    status = _STATUS[result.finish_reason]
    return End(
        job_id=lease.job_id,
        source=Status.RUNNING,
        target=status,
        fence=lease.attempt,
        outcome=Outcome(status.value),
        finish_reason=result.finish_reason,
        usage=result.usage,
        text=result.text,
    )


def failed(lease: Lease, *, code: str, message: str) -> End:
    """There is no result, and the reason is said; nothing is charged."""
    return End(
        job_id=lease.job_id,
        source=Status.RUNNING,
        target=Status.FAILED,
        fence=lease.attempt,
        outcome=Outcome.FAILED,
        error_code=code,
        error_message=message,
    )


def finish(session: Session, ends: Sequence[End], *, base_url: str) -> list[Ended | LeaseLost]:
    """End the jobs of a worker; an answer for each, in their order."""
    ended = ending.end(session, ends, base_url=base_url)
    return [each or LeaseLost() for each in ended]
