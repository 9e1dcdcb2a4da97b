"""The Authorization header -> principal. Keys that come together are looked up together."""

import hashlib
import time
from collections.abc import Sequence

from app.accounts import keys
from app.accounts.keys import Key
from app.accounts.principal import Principal, authenticate
from app.db import Database
from app.errors import InvalidCredential, MissingCredential
from app.group import Group

TRUSTED_SECONDS = 1.0
_MOST_TRUSTED = 10_000


class Authenticator:
    """Looks a key up, and trusts it for a second: a revoked one may work that much longer."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._group: Group[Key, Principal] = Group(self._authenticate)
        # By hash of the header: what is kept in memory opens no door.
        self._trusted: dict[bytes, tuple[Principal, float]] = {}

    def authenticate(self, header: str) -> Principal:
        """Who sent this header; raises MissingCredential or InvalidCredential."""
        digest = hashlib.sha256(header.encode()).digest()
        principal, until = self._trusted.get(digest, (None, 0.0))
        if principal is None or until < time.monotonic():
            principal = self._group.do(_key(header))
            self._trust(digest, principal)
        return principal

    def _trust(self, digest: bytes, principal: Principal) -> None:
        if len(self._trusted) >= _MOST_TRUSTED:
            self._trusted.clear()
        self._trusted[digest] = principal, time.monotonic() + TRUSTED_SECONDS

    def _authenticate(self, given: Sequence[Key]) -> list[Principal | InvalidCredential]:
        with self._database.statement() as session:
            return authenticate(session, given)


def _key(header: str) -> Key:
    scheme, _, credential = header.partition(" ")
    if scheme.lower() != "bearer" or not credential:
        raise MissingCredential
    key = keys.parse(credential.strip())
    if key is None:  # refused by its checksum, before any query
        raise InvalidCredential
    return key
