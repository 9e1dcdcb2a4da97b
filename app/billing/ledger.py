"""Hold, settle, release: each moves money once per job, inside the caller's transaction.

All of them take many jobs at once; the balances of their accounts are locked in order of account.
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import structlog
from sqlalchemy import BigInteger, String, Uuid, bindparam, func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from app.billing.prices import CURRENCY, Price, Usage
from app.billing.tables import Balance, Book, Charge, ChargeState, Kind, Transfer
from app.rows import given, store

log = structlog.get_logger(__name__)


def grant(session: Session, account_id: UUID, amount_micros: int) -> None:
    """Add credit to an account, in micro-USD; opens its balance at the first time."""
    session.execute(
        insert(Balance)
        .values(account_id=account_id, available_micros=amount_micros, held_micros=0)
        .on_conflict_do_update(
            index_elements=[Balance.account_id],
            set_={"available_micros": Balance.available_micros + amount_micros},
        )
    )
    store(session, (Transfer, [_transfer(account_id, None, Kind.GRANT, amount_micros)]))


_AVAILABLE = (
    select(Balance.account_id, Balance.available_micros, func.now())
    .where(Balance.account_id.in_(bindparam("accounts", expanding=True)))
    .order_by(Balance.account_id)
)
_LOCK_AVAILABLE = _AVAILABLE.with_for_update()
_LOCK_FREE = _AVAILABLE.with_for_update(skip_locked=True)


def lock_available(
    session: Session, account_ids: Collection[UUID], *, wait: bool = True
) -> tuple[dict[UUID, int], datetime]:
    """The credit of these accounts, in micro-USD, which nobody else can change until the commit;
    and the time of the transaction, which saves the caller from asking.

    Without ``wait``, accounts whose balance somebody else has locked are left out.
    """
    statement = _LOCK_AVAILABLE if wait else _LOCK_FREE
    rows = session.execute(statement, {"accounts": list(account_ids)}).all()
    now = rows[0][2] if rows else datetime.now(UTC)
    return {account_id: available for account_id, available, _ in rows}, now


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """What a job can cost at most, at the price of submit."""

    account_id: UUID
    job_id: UUID
    price: Price
    at_most: Usage

    @property
    def amount_micros(self) -> int:
        """The most it can cost."""
        return self.price.of(self.at_most)


def hold(session: Session, holds: Sequence[Hold]) -> list[Charge]:
    """Set these amounts aside; the caller has locked the balances and found them large enough."""
    if not holds:
        return []
    rows = [_charge(each) for each in holds]
    transfers = [
        _transfer(each.account_id, each.job_id, Kind.HOLD, each.amount_micros) for each in holds
    ]
    store(session, (Charge, rows), (Transfer, transfers))
    held: Counter[UUID] = Counter()
    for each in holds:
        held[each.account_id] += each.amount_micros
    _move(session, {account: (-amount, amount) for account, amount in held.items()})
    return [Charge(**row) for row in rows]


_HELD = (
    select(Charge)
    .where(Charge.job_id.in_(bindparam("jobs", expanding=True)))
    .order_by(Charge.job_id)
    .with_for_update()
)


def close(session: Session, usages: Mapping[UUID, Usage | None]) -> dict[UUID, Charge]:
    """Settle the hold of each job: charge its usage at the price of submit and release the rest, or
    release all of it where the usage is None.
    """
    if not usages:
        return {}
    held = session.scalars(_HELD, {"jobs": list(usages)})
    settled = {charge.job_id: _settled(charge, usages[charge.job_id]) for charge in held}
    closed = _close(session, settled)
    transfers = [row for charge in closed.values() for row in _movements(charge)]
    store(session, (Transfer, transfers))
    _move_all(session, closed.values())
    return closed


def _charge(hold: Hold) -> dict[str, Any]:
    return {
        "job_id": hold.job_id,
        "account_id": hold.account_id,
        "state": ChargeState.HELD,
        "held_micros": hold.amount_micros,
        "charged_micros": 0,
        "currency": CURRENCY,
        "input_price_micros": hold.price.input_micros,
        "output_price_micros": hold.price.output_micros,
    }


def _settled(charge: Charge, usage: Usage | None) -> dict[str, Any]:
    if usage is None:
        return {"job_id": charge.job_id, "state": ChargeState.RELEASED, "charged_micros": 0}
    amount = Price(charge.input_price_micros, charge.output_price_micros).of(usage)
    if amount > charge.held_micros:
        # Never more than was agreed at submit; that the bound was too low is our fault.
        log.error("hold_too_small", job_id=str(charge.job_id), due=amount, held=charge.held_micros)
        amount = charge.held_micros
    return {"job_id": charge.job_id, "state": ChargeState.CHARGED, "charged_micros": amount}


_SETTLED = given("settled", job_id=Uuid, state=String, charged_micros=BigInteger)
_CLOSE = (
    update(Charge)
    .where(Charge.job_id == _SETTLED.c.job_id, Charge.state == ChargeState.HELD)
    .values(state=_SETTLED.c.state, charged_micros=_SETTLED.c.charged_micros, settled_at=func.now())
    .returning(Charge)
    .execution_options(populate_existing=True, synchronize_session=False)
)


def _close(session: Session, settled: dict[UUID, dict[str, Any]]) -> dict[UUID, Charge]:
    closed = session.scalars(_CLOSE, {"settled": list(settled.values())})
    found = {charge.job_id: charge for charge in closed}
    if found.keys() != settled.keys():
        raise AssertionError("a hold was closed before")
    return found


def _movements(charge: Charge) -> list[dict[str, Any]]:
    rest = charge.held_micros - charge.charged_micros
    moved = []
    if charge.state == ChargeState.CHARGED:
        moved.append((Kind.CHARGE, charge.charged_micros))
    if rest or charge.state == ChargeState.RELEASED:
        moved.append((Kind.RELEASE, rest))
    return [_transfer(charge.account_id, charge.job_id, kind, amount) for kind, amount in moved]


def _move_all(session: Session, closed: Collection[Charge]) -> None:
    available: Counter[UUID] = Counter()
    held: Counter[UUID] = Counter()
    for charge in closed:
        available[charge.account_id] += charge.held_micros - charge.charged_micros
        held[charge.account_id] -= charge.held_micros
    if len(held) > 1:
        lock_available(session, held)  # in order; an UPDATE of many rows has none
    _move(session, {account: (available[account], held[account]) for account in held})


_CHANGES = given("changes", account_id=Uuid, available=BigInteger, held=BigInteger)
_MOVE = (
    update(Balance)
    .where(Balance.account_id == _CHANGES.c.account_id)
    .values(
        available_micros=Balance.available_micros + _CHANGES.c.available,
        held_micros=Balance.held_micros + _CHANGES.c.held,
    )
    .execution_options(synchronize_session=False)
)


def _move(session: Session, changes: Mapping[UUID, tuple[int, int]]) -> None:
    """Add to available and held of balances that are locked, if there are more than one; a CHECK of
    the table keeps both from falling below zero.
    """
    rows = [
        {"account_id": account, "available": available, "held": held}
        for account, (available, held) in changes.items()
    ]
    session.execute(_MOVE, {"changes": rows})


_BOOKS = {
    Kind.GRANT: (Book.FUNDING, Book.AVAILABLE),
    Kind.HOLD: (Book.AVAILABLE, Book.HELD),
    Kind.CHARGE: (Book.HELD, Book.REVENUE),
    Kind.RELEASE: (Book.HELD, Book.AVAILABLE),
}


def _transfer(account_id: UUID, job_id: UUID | None, kind: Kind, amount: int) -> dict[str, Any]:
    debit, credit = _BOOKS[kind]
    return {
        "account_id": account_id,
        "job_id": job_id,
        "kind": kind,
        "debit": debit,
        "credit": credit,
        "amount_micros": amount,
    }
