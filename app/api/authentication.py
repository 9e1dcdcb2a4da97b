"""The Authorization header -> principal. Keys that come together are looked up together."""

from collections.abc import Sequence

from app.accounts import keys
from app.accounts.keys import Key
from app.accounts.principal import Principal, authenticate
from app.db import Database
from app.errors import InvalidCredential, MissingCredential
from app.group import Group


class Authenticator:
    """Looks every key up at every request, so that a revoked one is refused at once."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._group: Group[Key, Principal] = Group(self._authenticate)

    def authenticate(self, header: str) -> Principal:
        """Who sent this header; raises MissingCredential or InvalidCredential."""
        scheme, _, credential = header.partition(" ")
        if scheme.lower() != "bearer" or not credential:
            raise MissingCredential
        key = keys.parse(credential.strip())
        if key is None:  # refused by its checksum, before any query
            raise InvalidCredential
        return self._group.do(key)

    def _authenticate(self, given: Sequence[Key]) -> list[Principal | InvalidCredential]:
        with self._database.statement() as session:
            return authenticate(session, given)
