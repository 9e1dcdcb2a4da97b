"""running -> succeeded, failed, cancelled, expired: result, charge and webhook in one transaction.

Every end names the lease. Where the job has been given to another attempt since, the answer is
LeaseLost: nothing is stored, charged or sent.

Who pays is published in ``docs/billing.md``.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy.orm import Session

from app.billing.prices import Usage
from app.errors import LeaseLost
from app.jobs import ending, lease
from app.jobs.counts import count_discarded
from app.jobs.ending import Ended
from app.jobs.states import Outcome, Status
from app.jobs.transition import End, Lease


@dataclass(frozen=True, slots=True)
class Result:
    """What an engine made of the job; ``finish_reason`` as in ``workers.engines.base``."""

    text: str
    finish_reason: str
    usage: Usage
    logprobs: list[dict[str, Any]] | None = None


_STATUS = {
    "stop": Status.SUCCEEDED,
    "length": Status.SUCCEEDED,
    "cancelled": Status.CANCELLED,
    "deadline": Status.EXPIRED,
}


def succeeded(held: Lease, result: Result) -> End:
    """What was generated is charged for; a cancelled or late job pays for its part."""
    status = _STATUS[result.finish_reason]
    return End(
        job_id=held.job_id,
        source=Status.RUNNING,
        target=status,
        fence=held.attempt,
        outcome=Outcome(status.value),
        finish_reason=result.finish_reason,
        usage=result.usage,
        text=result.text,
        logprobs=result.logprobs,
    )


def failed(held: Lease, *, code: str, message: str) -> End:
    """There is no result, and the reason is said; nothing is charged."""
    return End(
        job_id=held.job_id,
        source=Status.RUNNING,
        target=Status.FAILED,
        fence=held.attempt,
        outcome=Outcome.FAILED,
        error_code=code,
        error_message=message,
    )


def finish(session: Session, ends: Sequence[End], *, base_url: str) -> list[Ended | LeaseLost]:
    """End the jobs of a worker; an answer for each, in their order."""
    ended = ending.end(session, ends, base_url=base_url)
    _count_late(session, [how for how, end in zip(ends, ended, strict=True) if end is None])
    return [each or LeaseLost() for each in ended]


def _count_late(session: Session, ends: Sequence[End]) -> None:
    """Of what was refused, that of lost attempts; the rest is what somebody wrote twice."""
    leases = [Lease(each.job_id, each.fence) for each in ends if each.fence is not None]
    late = lease.lost(session, leases) if leases else ()
    if late:
        count_discarded(session, len(late))
