"""The demo account: opened once, used again on every later run."""

from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from app import schema
from app.accounts import keys
from app.accounts.admin import grant_credit, issue_key, open_account
from app.accounts.principal import Principal, authenticate
from app.accounts.tables import Account
from app.billing.tables import Balance
from app.config import Settings
from app.db import Database
from app.webhooks.secrets import read_secret

NAME = "demo of scripts/up"
CREDIT_MICROS = 10_000_000
LOW_MICROS = 1_000_000


@dataclass(frozen=True, kw_only=True)
class Demo:
    """What the owner of the account knows."""

    key: str
    webhook_secret: str


def demo(database_url: str, remembered_key: str) -> Demo:
    """The account's key and secret, with credit on it; its last key is kept if it still works."""
    database = Database(Settings(database_url=database_url), schema.metadata)
    try:
        with database.transaction() as session:
            key = remembered_key
            account_id = _owner(session, key)
            if account_id is None:
                account_id = _find(session) or _open(session)
                key = issue_key(session, account_id=account_id, name="scripts/up")
            _top_up(session, account_id)
            return Demo(key=key, webhook_secret=read_secret(session, account_id))
    finally:
        database.close()


def _owner(session: Session, text: str) -> UUID | None:
    key = keys.parse(text)
    if key is None:
        return None
    [owner] = authenticate(session, [key])
    return owner.account_id if isinstance(owner, Principal) else None


def _find(session: Session) -> UUID | None:
    return session.scalars(
        select(Account.id).where(Account.name == NAME).order_by(Account.created_at)
    ).first()


def _open(session: Session) -> UUID:
    return open_account(session, name=NAME, credit_micros=CREDIT_MICROS).id


def _top_up(session: Session, account_id: UUID) -> None:
    missing = CREDIT_MICROS - session.get_one(Balance, account_id).available_micros
    if missing > CREDIT_MICROS - LOW_MICROS:
        grant_credit(session, account_id=account_id, amount_micros=missing)
