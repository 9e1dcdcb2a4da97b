"""How many jobs, tokens and deliveries there are, over all accounts: the operator's figures.

What has ended is read from the sums by day, and what has not by indexes of just that; so it does
not take longer the more jobs there were.
"""

from collections import defaultdict
from dataclasses import dataclass, field

from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from app.billing.tables import UsageDay
from app.jobs.states import Status
from app.jobs.tables import Counter, Job
from app.webhooks.tables import Delivery, DeliveryState, DisabledReason, Endpoint

_DISCARDED = "results_discarded"


@dataclass(frozen=True, slots=True)
class Counts:
    """Jobs by model and status, tokens by model and direction, money by model, deliveries that are
    not through by state, disabled endpoints by reason, and the results that came too late.
    """

    results_discarded: int
    jobs: dict[tuple[str, str], int] = field(default_factory=dict)
    tokens: dict[tuple[str, str], int] = field(default_factory=lambda: defaultdict(int))
    charged_micros: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    deliveries: dict[str, int] = field(default_factory=dict)
    disabled_endpoints: dict[str, int] = field(default_factory=dict)


def counts(session: Session) -> Counts:
    """Count everything there is."""
    discarded = session.scalar(select(Counter.value).where(Counter.name == _DISCARDED))
    found = Counts(discarded or 0)
    _add_ended(session, found)
    _add_open(session, found)
    _add_webhooks(session, found)
    return found


def _add_ended(session: Session, found: Counts) -> None:
    query = select(
        UsageDay.model,
        UsageDay.status,
        func.sum(UsageDay.requests),
        func.sum(UsageDay.prompt_tokens),
        func.sum(UsageDay.completion_tokens),
        func.sum(UsageDay.charged_micros),
    ).group_by(UsageDay.model, UsageDay.status)
    for model, status, jobs, read, written, charged in session.execute(query):
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
        some = select(func.count()).select_from(Delivery).where(Delivery.state == state.value)
        found.deliveries[state] = session.scalar(some) or 0
    found.disabled_endpoints.update({reason.value: 0 for reason in DisabledReason})
    query = select(Endpoint.disabled_reason, func.count())
    disabled = query.where(Endpoint.disabled_reason.is_not(None))
    for reason, endpoints in session.execute(disabled.group_by(Endpoint.disabled_reason)):
        found.disabled_endpoints[str(reason)] = endpoints


def count_discarded(session: Session, results: int) -> None:
    """So many results of lost attempts were refused. The row stays locked until the commit, so this
    comes last in its transaction.
    """
    session.execute(
        insert(Counter)
        .values(name=_DISCARDED, value=results)
        .on_conflict_do_update(
            index_elements=[Counter.name], set_={"value": Counter.value + results}
        )
    )
