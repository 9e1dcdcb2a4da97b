"""An upload: what comes is stored piece by piece, in transactions of its own."""

from types import TracebackType
from typing import Self
from uuid import UUID

from app.db import Database
from app.errors import DatabaseUnavailable
from app.files import storing
from app.files.tables import CHUNK_BYTES, File, Purpose

_KEPT_BYTES = 4 * CHUNK_BYTES  # in memory, until they are stored together


class Upload:
    """A file that comes. What is not completed is discarded, at once or by the sweep."""

    def __init__(self, database: Database, account_id: UUID, purpose: Purpose) -> None:
        self._database = database
        self._account_id = account_id
        self._purpose = purpose
        self._file_id: UUID | None = None
        self._kept = bytearray()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is None or self._file_id is None:
            return
        try:
            with self._database.transaction() as session:
                storing.discard(session, self._file_id)
        except DatabaseUnavailable:
            pass  # the sweep does it

    def write(self, data: bytes) -> None:
        """Add to its end; raises DatabaseUnavailable."""
        self._kept += data
        if len(self._kept) >= _KEPT_BYTES:
            self._store(len(self._kept) - len(self._kept) % CHUNK_BYTES)

    def complete(self, *, filename: str, expires_after_seconds: int | None) -> File:
        """It came whole; raises DatabaseUnavailable."""
        self._store(len(self._kept))
        assert self._file_id is not None
        with self._database.transaction() as session:
            return storing.complete(
                session,
                self._file_id,
                filename=filename,
                expires_after_seconds=expires_after_seconds,
            )

    def _store(self, size: int) -> None:
        with self._database.transaction() as session:
            if self._file_id is None:
                self._file_id = storing.begin_file(
                    session, self._account_id, self._purpose, filename=""
                )
            if size:
                storing.append(session, self._file_id, bytes(self._kept[:size]))
        del self._kept[:size]
