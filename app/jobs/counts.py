"""How many jobs, tokens and deliveries there are, over all accounts: the operator's figures.

What has ended is read from the sums by day, and what has not by indexes of just that; so it does
not take longer the more jobs there were.
"""

from collections import Counter
from dataclasses import dataclass, field

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.billing.tables import UsageDay
from app.jobs.states import Status
from app.jobs.tables import Job
from app.webhooks.tables import Delivery, DeliveryState, DisabledReason, Endpoint


@dataclass(frozen=True, slots=True)
class Counts:
    """Jobs by model and status, tokens by model and direction, deliveries that are not through by
    state, disabled endpoints by reason, money.
    """

    jobs: Counter[tuple[str, str]] = field(default_factory=Counter)
    tokens: Counter[tuple[str, str]] = field(default_factory=Counter)
    charged_micros: Counter[str] = field(default_factory=Counter)
    deliveries: dict[str, int] = field(default_factory=dict)
    disabled_endpoints: dict[str, int] = field(default_factory=dict)


def counts(session: Session) -> Counts:
    """Count everything there is."""
    found = Counts()
    _add_ended(session, found)
    _add_open(session, found)
    _add_webhooks(session, found)
    return found


def _add_ended(session: Session, found: Counts) -> None:
    sums = [
        func.sum(column)
        for column in (
            UsageDay.requests,
            UsageDay.prompt_tokens,
            UsageDay.completion_tokens,
            UsageDay.charged_micros,
        )
    ]
    query = select(UsageDay.model, UsageDay.status, *sums)
    for model, status, jobs, read, written, charged in session.execute(
        query.group_by(UsageDay.model, UsageDay.status)
    ):
        found.jobs[model, status] = int(jobs)
        found.tokens[model, "prompt"] += int(read)
        found.tokens[model, "completion"] += int(written)
        found.charged_micros[model] += int(charged)


def _add_open(session: Session, found: Counts) -> None:
    for status in (Status.QUEUED, Status.RUNNING):
        query = select(Job.model, func.count()).where(Job.status == status.value)
        for model, jobs in session.execute(query.group_by(Job.model)):
            found.jobs[model, status] = jobs


def _add_webhooks(session: Session, found: Counts) -> None:
    for state in (DeliveryState.PENDING, DeliveryState.ABANDONED):
        query = select(func.count()).select_from(Delivery).where(Delivery.state == state.value)
        found.deliveries[state] = session.scalar(query) or 0
    found.disabled_endpoints.update({reason.value: 0 for reason in DisabledReason})
    query = select(Endpoint.disabled_reason, func.count())
    disabled = query.where(Endpoint.disabled_reason.is_not(None))
    for reason, endpoints in session.execute(disabled.group_by(Endpoint.disabled_reason)):
        found.disabled_endpoints[str(reason)] = endpoints
