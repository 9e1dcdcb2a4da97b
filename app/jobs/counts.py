"""How many jobs, tokens and deliveries there are, over all accounts: the operator's figures."""

from dataclasses import dataclass

from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from app.billing.tables import Kind, Transfer
from app.jobs.tables import Counter, Job
from app.webhooks.tables import Delivery

_DISCARDED = "results_discarded"


@dataclass(frozen=True, slots=True)
class Counts:
    """Jobs by model and status, tokens by model and direction, deliveries by state, money, and
    the results that came too late.
    """

    jobs: dict[tuple[str, str], int]
    tokens: dict[tuple[str, str], int]
    deliveries: dict[str, int]
    charged_micros: int
    results_discarded: int


def counts(session: Session) -> Counts:
    """Count everything there is."""
    jobs: dict[tuple[str, str], int] = {}
    tokens: dict[tuple[str, str], int] = {}
    for model, status, number, prompt, completion in session.execute(
        select(
            Job.model,
            Job.status,
            func.count(),
            func.coalesce(func.sum(Job.prompt_tokens), 0),
            func.coalesce(func.sum(Job.completion_tokens), 0),
        ).group_by(Job.model, Job.status)
    ):
        jobs[model, status] = number
        tokens[model, "prompt"] = tokens.get((model, "prompt"), 0) + int(prompt or 0)
        tokens[model, "completion"] = tokens.get((model, "completion"), 0) + int(completion or 0)
    deliveries: dict[str, int] = {}
    for state, number in session.execute(
        select(Delivery.state, func.count()).group_by(Delivery.state)
    ):
        deliveries[state] = number
    charged = session.scalar(
        select(func.coalesce(func.sum(Transfer.amount_micros), 0)).where(
            Transfer.kind == Kind.CHARGE
        )
    )
    discarded = session.scalar(select(Counter.value).where(Counter.name == _DISCARDED))
    return Counts(jobs, tokens, deliveries, int(charged or 0), discarded or 0)


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
