"""Which due deliveries are sent next: the longest waiting of every host and account with room."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from sqlalchemy import ARRAY, Row, String, Uuid, and_, bindparam, case, func, select, text
from sqlalchemy.orm import Session

from app.webhooks.endpoints import Address
from app.webhooks.tables import Delivery, DeliveryState, Endpoint

Lane = str | UUID  # what deliveries can be too many of: a host, or an account
Room = Callable[[Lane], int]  # how many more of a lane may be in flight

PENDING = Delivery.state == DeliveryState.PENDING
DUE = and_(PENDING, Delivery.next_attempt_at <= func.now())

_FAILING, _DISABLED = "failing", "disabled"
# Not a join: the planner might sort everything that is due instead of reading the first few.
_TROUBLE = (
    select(
        case(
            (Endpoint.disabled_at.is_not(None), _DISABLED),
            (Endpoint.failing_since.is_not(None), _FAILING),
        )
    )
    .where(Endpoint.account_id == Delivery.account_id, Endpoint.url == Delivery.url)
    .scalar_subquery()
    .label("trouble")
)
_CANDIDATE = select(
    Delivery.id,
    Delivery.host,
    Delivery.account_id,
    Delivery.url,
    Delivery.next_attempt_at,
    _TROUBLE,
).where(DUE)


_OLDEST = _CANDIDATE.order_by(Delivery.next_attempt_at).limit(bindparam("limit"))


@dataclass(slots=True)
class Choice:
    """Deliveries to send, and whether their endpoint has been failing; disabled endpoints for which
    deliveries are due; and whether more is due than there was room for.
    """

    failing: dict[UUID, bool] = field(default_factory=dict)
    disabled: set[Address] = field(default_factory=set)
    more: bool = False


def choose(session: Session, limit: int, room: Room) -> Choice:
    """Due deliveries, no more of one host or account than there is room for.

    Usually the oldest are what is wanted. Where receivers that hang fill that look, the next ones
    go from host to host, so that what waits behind theirs is seen however much of it there is.
    """
    choice, left = Choice(), _Left(room)
    rows = session.execute(_OLDEST, {"limit": limit}).all()
    _take(rows, limit, left, choice)
    while len(rows) == limit and len(choice.failing) < limit and not choice.disabled:
        full = {"hosts": left.full(str), "accounts": left.full(UUID)}
        others = {"chosen": list(choice.failing), "limit": limit, **full}
        rows = session.execute(_OF_OTHERS, others).all()
        _take(rows, limit, left, choice)
    used_up = left.full(str) or left.full(UUID) or len(choice.failing) >= limit
    choice.more = bool(used_up or choice.disabled)
    return choice


class _Left:
    """The room that is left in each lane that was looked at."""

    def __init__(self, room: Room) -> None:
        self._room = room
        self._free: dict[Lane, int] = {}

    def take(self, *lanes: Lane) -> bool:
        """Take a place in each of these lanes, if all of them have one."""
        for lane in lanes:
            self._free.setdefault(lane, self._room(lane))
        if min(self._free[lane] for lane in lanes) <= 0:
            return False
        for lane in lanes:
            self._free[lane] -= 1
        return True

    def full(self, kind: type[str] | type[UUID]) -> list[Lane]:
        """The hosts, or the accounts, that have none."""
        return [lane for lane, free in self._free.items() if free <= 0 and isinstance(lane, kind)]


def _take(rows: Sequence[Row[Any]], limit: int, left: _Left, choice: Choice) -> None:
    for row in rows:
        if row.trouble == _DISABLED:
            choice.disabled.add(Address(row.account_id, row.url, row.host))
        elif len(choice.failing) < limit and left.take(row.host, row.account_id):
            choice.failing[row.id] = row.trouble == _FAILING


# The oldest of each host that has room. An index on host and time leads from one host to the next,
# past whatever else there is of the first; rows are compared as pairs because the planner would
# otherwise read the index on time alone, and with it everything of the hosts that are full.
_OF_OTHERS = text(
    """
    WITH RECURSIVE hosts AS (
        SELECT min(host) AS host FROM webhook_deliveries WHERE state = 'pending'
        UNION ALL
        SELECT (SELECT min(host) FROM webhook_deliveries
                WHERE state = 'pending' AND host > hosts.host)
        FROM hosts WHERE hosts.host IS NOT NULL)
    SELECT oldest.*, (
        SELECT CASE WHEN disabled_at IS NOT NULL THEN 'disabled'
                    WHEN failing_since IS NOT NULL THEN 'failing' END
        FROM webhook_endpoints e
        WHERE e.account_id = oldest.account_id AND e.url = oldest.url) AS trouble
    FROM hosts, LATERAL (
        SELECT id, host, account_id, url, next_attempt_at FROM webhook_deliveries
        WHERE state = 'pending' AND (host, next_attempt_at) >= (hosts.host, '-infinity')
            AND (host, next_attempt_at) <= (hosts.host, now())
            AND id <> ALL(:chosen) AND account_id <> ALL(:accounts)
        ORDER BY host, next_attempt_at LIMIT :limit) AS oldest
    WHERE hosts.host <> ALL(:hosts)
    ORDER BY next_attempt_at LIMIT :limit
    """
).bindparams(
    bindparam("chosen", type_=ARRAY(Uuid)),
    bindparam("accounts", type_=ARRAY(Uuid)),
    bindparam("hosts", type_=ARRAY(String)),
)
