"""Credential -> principal: who is asking."""

from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.accounts import keys
from app.accounts.tables import ApiKey
from app.errors import InvalidCredential

# Compared against when no such key exists, so that an unknown key takes as long as a wrong one.
_NOBODY = bytes(32)


@dataclass(frozen=True, slots=True)
class Principal:
    """An account, and the key it came with."""

    account_id: UUID
    key_id: str


def authenticate(session: Session, key: keys.Key) -> Principal:
    """The owner of a key; raises InvalidCredential when it is unknown, wrong or revoked."""
    row = session.execute(
        select(ApiKey.account_id, ApiKey.secret_hash).where(
            ApiKey.public_id == key.public_id, ApiKey.revoked_at.is_(None)
        )
    ).one_or_none()
    if not key.matches(row.secret_hash if row else _NOBODY) or row is None:
        raise InvalidCredential
    return Principal(account_id=row.account_id, key_id=key.public_id)
