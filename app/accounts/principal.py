"""Credential -> principal: who is asking."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import bindparam, select
from sqlalchemy.orm import Session

from app.accounts.keys import Key
from app.accounts.tables import ApiKey
from app.errors import InvalidCredential

# Compared against when no such key exists, so that an unknown key takes as long as a wrong one.
_NOBODY = bytes(32)


@dataclass(frozen=True, slots=True)
class Principal:
    """An account, and the key it came with."""

    account_id: UUID
    key_id: str


_LIVE_KEYS = select(ApiKey.public_id, ApiKey.account_id, ApiKey.secret_hash).where(
    ApiKey.public_id.in_(bindparam("ids", expanding=True)), ApiKey.revoked_at.is_(None)
)


def authenticate(session: Session, given: Sequence[Key]) -> list[Principal | InvalidCredential]:
    """The owner of each key, or InvalidCredential where it is unknown, wrong or revoked."""
    rows = session.execute(_LIVE_KEYS, {"ids": list({key.public_id for key in given})})
    known = {row.public_id: row for row in rows}
    return [_check(key, known.get(key.public_id)) for key in given]


def _check(key: Key, row: Any) -> Principal | InvalidCredential:
    if not key.matches(row.secret_hash if row else _NOBODY) or row is None:
        return InvalidCredential()
    return Principal(account_id=row.account_id, key_id=key.public_id)
