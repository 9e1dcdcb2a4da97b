"""Hold, settle, release: each moves money once per job, inside the caller's transaction."""

from uuid import UUID

import structlog
from sqlalchemy import ColumnElement, func, insert, update
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.orm import Session

from app.billing.prices import CURRENCY, Price, Usage
from app.billing.tables import Balance, Book, Charge, ChargeState, Kind, Transfer
from app.errors import InsufficientCredit

log = structlog.get_logger(__name__)


def grant(session: Session, account_id: UUID, amount_micros: int) -> None:
    """Add credit to an account, in micro-USD; opens its balance at the first time."""
    session.execute(
        upsert(Balance)
        .values(account_id=account_id, available_micros=amount_micros, held_micros=0)
        .on_conflict_do_update(
            index_elements=[Balance.account_id],
            set_={"available_micros": Balance.available_micros + amount_micros},
        )
    )
    _transfer(session, account_id, None, Kind.GRANT, amount_micros)


def hold(
    session: Session, *, account_id: UUID, job_id: UUID, price: Price, at_most: Usage
) -> Charge:
    """Set aside the most a job can cost; raises InsufficientCredit when the credit is too small."""
    amount = price.of(at_most)
    charge = Charge(
        job_id=job_id,
        account_id=account_id,
        state=ChargeState.HELD,
        held_micros=amount,
        charged_micros=0,
        currency=CURRENCY,
        input_price_micros=price.input_micros,
        output_price_micros=price.output_micros,
    )
    session.add(charge)
    _transfer(session, account_id, job_id, Kind.HOLD, amount)
    session.flush()
    # Last, because it locks the account's balance until the commit.
    if not _move(session, account_id, available=-amount, held=amount):
        raise InsufficientCredit(required_micros=amount, currency=CURRENCY)
    return charge


def settle(session: Session, job_id: UUID, usage: Usage) -> Charge:
    """Charge what was used at the price of submit, and release the rest of the hold."""
    charge = session.get_one(Charge, job_id, with_for_update=True)
    amount = Price(charge.input_price_micros, charge.output_price_micros).of(usage)
    if amount > charge.held_micros:
        # Never more than was agreed at submit; that the bound was too low is our fault.
        log.error("hold_too_small", job_id=str(job_id), due=amount, held=charge.held_micros)
        amount = charge.held_micros
    return _close(session, charge, ChargeState.CHARGED, amount)


def release(session: Session, job_id: UUID) -> Charge:
    """Give the whole hold back."""
    charge = session.get_one(Charge, job_id, with_for_update=True)
    return _close(session, charge, ChargeState.RELEASED, 0)


def _close(session: Session, charge: Charge, state: ChargeState, charged: int) -> Charge:
    closed = session.scalars(
        update(Charge)
        .where(Charge.job_id == charge.job_id, Charge.state == ChargeState.HELD)
        .values(state=state, charged_micros=charged, settled_at=func.now())
        .returning(Charge)
        .execution_options(populate_existing=True)
    ).one_or_none()
    if closed is None:
        raise AssertionError(f"the hold of job {charge.job_id} was closed before")
    rest = closed.held_micros - charged
    if state is ChargeState.CHARGED:
        _transfer(session, closed.account_id, closed.job_id, Kind.CHARGE, charged)
    if rest or state is ChargeState.RELEASED:
        _transfer(session, closed.account_id, closed.job_id, Kind.RELEASE, rest)
    _move(session, closed.account_id, available=rest, held=-closed.held_micros)
    return closed


def _move(session: Session, account_id: UUID, *, available: int, held: int) -> bool:
    """Change a balance, unless available would fall below zero; says whether it did."""
    enough: ColumnElement[bool] = Balance.available_micros + available >= 0
    moved = session.execute(
        update(Balance)
        .where(Balance.account_id == account_id, enough)
        .values(
            available_micros=Balance.available_micros + available,
            held_micros=Balance.held_micros + held,
        )
        .returning(Balance.account_id)
        .execution_options(synchronize_session=False)
    )
    return moved.one_or_none() is not None


_BOOKS = {
    Kind.GRANT: (Book.FUNDING, Book.AVAILABLE),
    Kind.HOLD: (Book.AVAILABLE, Book.HELD),
    Kind.CHARGE: (Book.HELD, Book.REVENUE),
    Kind.RELEASE: (Book.HELD, Book.AVAILABLE),
}


def _transfer(
    session: Session, account_id: UUID, job_id: UUID | None, kind: Kind, amount: int
) -> None:
    debit, credit = _BOOKS[kind]
    session.execute(
        insert(Transfer).values(
            account_id=account_id,
            job_id=job_id,
            kind=kind,
            debit=debit,
            credit=credit,
            amount_micros=amount,
        )
    )
