"""What accounts used, added up by day, model and status as jobs end.

So a report reads a few rows however many jobs there were. The rows of an account are changed
after its balance was locked, and so by one transaction at a time.
"""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, date
from typing import Any, cast
from uuid import UUID

from sqlalchemy import BigInteger, Date, String, Table, Uuid, func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from app.billing.prices import Usage
from app.billing.tables import Charge, UsageDay
from app.rows import given


@dataclass(frozen=True, slots=True, kw_only=True)
class Used:
    """What one job used that has just ended, in this status, and what it was charged."""

    model: str
    status: str
    usage: Usage | None
    charge: Charge


_USED = given(
    "used",
    account_id=Uuid,
    day=Date,
    model=String,
    status=String,
    prompt_tokens=BigInteger,
    completion_tokens=BigInteger,
    charged_micros=BigInteger,
)
_KEY = (_USED.c.account_id, _USED.c.day, _USED.c.model, _USED.c.status)
_SUMS = (_USED.c.prompt_tokens, _USED.c.completion_tokens, _USED.c.charged_micros)
_TABLE = cast(Table, UsageDay.__table__)
_MORE = insert(_TABLE).from_select(
    [*(column.name for column in _KEY), "requests", *(column.name for column in _SUMS)],
    select(*_KEY, func.count(), *(func.sum(column) for column in _SUMS)).group_by(*_KEY),
)
_ADD = _MORE.on_conflict_do_update(
    index_elements=[column.name for column in _KEY],
    set_={
        name: _TABLE.c[name] + _MORE.excluded[name]
        for name in ("requests", *(column.name for column in _SUMS))
    },
)


def add(session: Session, ended: Collection[Used]) -> None:
    """Count these jobs; the day is that of their end, in UTC."""
    if ended:
        session.execute(_ADD, {"used": [_row(each) for each in ended]})


def _row(used: Used) -> dict[str, Any]:
    assert used.charge.settled_at is not None
    return {
        "account_id": used.charge.account_id,
        "day": used.charge.settled_at.astimezone(UTC).date(),
        "model": used.model,
        "status": used.status,
        "prompt_tokens": used.usage.prompt_tokens if used.usage else 0,
        "completion_tokens": used.usage.completion_tokens if used.usage else 0,
        "charged_micros": used.charge.charged_micros,
    }


@dataclass(frozen=True, slots=True)
class Day:
    """What one model used in one day (UTC)."""

    date: date
    model: str
    requests: int
    prompt_tokens: int
    completion_tokens: int
    charged_micros: int


_COUNTED = (
    UsageDay.requests,
    UsageDay.prompt_tokens,
    UsageDay.completion_tokens,
    UsageDay.charged_micros,
)


def report(session: Session, account_id: UUID, *, first: date, last: date) -> list[Day]:
    """The account's usage by day and model; both days are included."""
    rows = session.execute(
        select(UsageDay.day, UsageDay.model, *(func.sum(column) for column in _COUNTED))
        .where(UsageDay.account_id == account_id, UsageDay.day.between(first, last))
        .group_by(UsageDay.day, UsageDay.model)
        .order_by(UsageDay.day, UsageDay.model)
    )
    return [Day(*row[:2], *map(int, row[2:])) for row in rows]
