"""What an account used, what it cost, and what credit is left."""

from dataclasses import asdict
from datetime import UTC, date, datetime, timedelta

from flask import Blueprint

from app.accounts.principal import Principal
from app.api.operations import operation
from app.api.payloads import (
    BalanceDocument,
    UsageDayDocument,
    UsageQuery,
    UsageReport,
    UsageTotalDocument,
)
from app.api.services import services
from app.billing import usage
from app.billing.prices import CURRENCY
from app.billing.tables import Balance
from app.errors import InvalidRequest

blueprint = Blueprint("usage", __name__)

_DEFAULT_DAYS = timedelta(days=29)


@operation(
    blueprint, "GET", "/usage", query=UsageQuery, answer=UsageReport, errors=(InvalidRequest,)
)
def read_usage(principal: Principal, query: UsageQuery) -> UsageReport:
    """Jobs that ended, their tokens and charges, by day (UTC) and model; and the balance now."""
    last = query.until or max(datetime.now(UTC).date(), query.since or date.min)
    first = query.since or last - _DEFAULT_DAYS
    with services().database.transaction() as session:
        rows = usage.report(session, principal.account_id, first=first, last=last)
        balance = session.get_one(Balance, principal.account_id)
    data = [UsageDayDocument(**asdict(row)) for row in rows]
    return UsageReport(
        currency=CURRENCY,
        data=data,
        total=_total(data),
        balance=BalanceDocument(
            available_micros=balance.available_micros, held_micros=balance.held_micros
        ),
    )


def _total(data: list[UsageDayDocument]) -> UsageTotalDocument:
    return UsageTotalDocument(
        requests=sum(day.requests for day in data),
        prompt_tokens=sum(day.prompt_tokens for day in data),
        completion_tokens=sum(day.completion_tokens for day in data),
        charged_micros=sum(day.charged_micros for day in data),
    )
