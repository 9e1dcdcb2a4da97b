"""Reads that come together share one transaction."""

from collections.abc import Sequence
from uuid import UUID

from app.config import Settings
from app.db import Database
from app.errors import JobNotFound
from app.group import Group
from app.jobs import queries
from app.jobs.document import JobDocument
from app.jobs.queries import Owned


class Reader:
    """Reads jobs for their owners."""

    def __init__(self, settings: Settings, database: Database) -> None:
        self._settings = settings
        self._database = database
        self._group: Group[Owned, JobDocument] = Group(self._read)

    def read(self, account_id: UUID, job_id: UUID) -> JobDocument:
        """The whole job; raises JobNotFound, also when it is another account's."""
        return self._group.do(Owned(account_id, job_id))

    def _read(self, wanted: Sequence[Owned]) -> list[JobDocument | JobNotFound]:
        with self._database.transaction() as session:
            return queries.read(
                session,
                wanted,
                base_url=self._settings.public_url,
                fresh_seconds=self._settings.lease_seconds,
            )
