"""What an operator does with accounts: open one, give it a key, give it credit."""

from uuid import UUID

from sqlalchemy import func
from sqlalchemy.orm import Session
from uuid_utils.compat import uuid7

from app.accounts import keys
from app.accounts.tables import Account, ApiKey
from app.billing import ledger
from app.webhooks.secrets import create_secret


def open_account(session: Session, *, name: str, credit_micros: int) -> Account:
    """A new account with credit in micro-USD and a webhook secret of its own."""
    account = Account(id=uuid7(), name=name)
    session.add(account)
    session.flush()
    create_secret(session, account.id)
    ledger.grant(session, account.id, credit_micros)
    return account


def issue_key(session: Session, *, account_id: UUID, name: str) -> str:
    """A new API key, shown this once: only its hash is stored."""
    key = keys.generate()
    session.add(
        ApiKey(
            public_id=key.public_id, account_id=account_id, name=name, secret_hash=key.secret_hash
        )
    )
    return str(key)


def grant_credit(session: Session, *, account_id: UUID, amount_micros: int) -> None:
    """Add credit to an account, in micro-USD."""
    ledger.grant(session, account_id, amount_micros)


def revoke_key(session: Session, public_id: str) -> None:
    """End a key at once; raises NoResultFound when there is none of that public id."""
    session.get_one(ApiKey, public_id).revoked_at = func.now()
