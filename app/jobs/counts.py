"""How many jobs, tokens and deliveries there are, over all accounts: the operator's figures."""

from dataclasses import dataclass

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.billing.tables import Kind, Transfer
from app.jobs.tables import Job
from app.webhooks.tables import Delivery, DisabledReason, Endpoint


@dataclass(frozen=True, slots=True)
class Counts:
    """Jobs by model and status, tokens by model and direction, deliveries by state, disabled
    endpoints by reason, money.
    """

    jobs: dict[tuple[str, str], int]
    tokens: dict[tuple[str, str], int]
    deliveries: dict[str, int]
    disabled_endpoints: dict[str, int]
    charged_micros: int


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
    disabled = {reason.value: 0 for reason in DisabledReason}
    for reason, number in session.execute(
        select(Endpoint.disabled_reason, func.count())
        .where(Endpoint.disabled_reason.is_not(None))
        .group_by(Endpoint.disabled_reason)
    ):
        disabled[str(reason)] = number
    charged = session.scalar(
        select(func.coalesce(func.sum(Transfer.amount_micros), 0)).where(
            Transfer.kind == Kind.CHARGE
        )
    )
    return Counts(jobs, tokens, deliveries, disabled, int(charged or 0))
