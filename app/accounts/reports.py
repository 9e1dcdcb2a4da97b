"""What an operator sees of accounts: their credit and their keys, without any secret."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.accounts.tables import Account, ApiKey
from app.billing.tables import Balance


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountReport:
    """An account, its credit in micro-USD, and how many keys open it."""

    id: UUID
    name: str
    created: datetime
    available_micros: int
    held_micros: int
    keys: int


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyReport:
    """A key by its public id; ``revoked`` is null while it works."""

    public_id: str
    name: str
    created: datetime
    revoked: datetime | None


_LIVE = (
    select(func.count())
    .where(ApiKey.account_id == Account.id, ApiKey.revoked_at.is_(None))
    .scalar_subquery()
)
_ACCOUNTS = (
    select(
        Account.id,
        Account.name,
        Account.created_at.label("created"),
        func.coalesce(Balance.available_micros, 0).label("available_micros"),
        func.coalesce(Balance.held_micros, 0).label("held_micros"),
        _LIVE.label("keys"),
    )
    .outerjoin(Balance, Balance.account_id == Account.id)
    .order_by(Account.created_at, Account.id)
)


def accounts(session: Session) -> list[AccountReport]:
    """All of them, the oldest first."""
    return [AccountReport(**row) for row in session.execute(_ACCOUNTS).mappings()]


def account(session: Session, account_id: UUID) -> AccountReport:
    """One of them; raises NoResultFound."""
    found = session.execute(_ACCOUNTS.where(Account.id == account_id)).mappings().one()
    return AccountReport(**found)


def keys(session: Session, account_id: UUID) -> Sequence[KeyReport]:
    """The keys of an account, the oldest first; raises NoResultFound for no account."""
    session.get_one(Account, account_id)
    found = session.scalars(
        select(ApiKey).where(ApiKey.account_id == account_id).order_by(ApiKey.created_at)
    )
    return [
        KeyReport(
            public_id=key.public_id, name=key.name, created=key.created_at, revoked=key.revoked_at
        )
        for key in found
    ]
