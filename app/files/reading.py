"""Reading files: what there is, and what is in them. Every query of a client names the account."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple
from uuid import UUID

from sqlalchemy import bindparam, func, or_, select
from sqlalchemy.orm import Session

from app.db import Database
from app.errors import FileNotFound
from app.files.tables import CHUNK_BYTES, File, FileChunk

_VISIBLE = File.completed_at.is_not(None) & or_(
    File.expires_at.is_(None), File.expires_at > func.now()
)
_CHUNK = select(FileChunk.data).where(
    FileChunk.file_id == bindparam("file"), FileChunk.number == bindparam("chunk")
)


def owned_file(session: Session, account_id: UUID, file_id: UUID, *, lock: bool = False) -> File:
    """The account's file of that id; raises FileNotFound, also when it is another account's."""
    query = select(File).where(File.id == file_id, File.account_id == account_id, _VISIBLE)
    file = session.scalars(query.with_for_update() if lock else query).one_or_none()
    if file is None:
        raise FileNotFound
    return file


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which files to list."""

    purpose: str | None = None
    after: UUID | None = None
    order: Literal["asc", "desc"] = "desc"
    limit: int = 10_000


def page(session: Session, account_id: UUID, wanted: Wanted) -> tuple[Sequence[File], bool]:
    """One page of an account's files, and whether there are more."""
    query = select(File).where(File.account_id == account_id, _VISIBLE)
    if wanted.purpose is not None:
        query = query.where(File.purpose == wanted.purpose)
    down = wanted.order == "desc"
    if wanted.after is not None:
        query = query.where(File.id < wanted.after if down else File.id > wanted.after)
    query = query.order_by(File.id.desc() if down else File.id).limit(wanted.limit + 1)
    found = session.scalars(query).all()
    return found[: wanted.limit], len(found) > wanted.limit


def content(database: Database, file: File) -> Iterator[bytes]:
    """The whole file. Each chunk is a statement of its own, as a slow reader may take hours; a file
    that is deleted meanwhile ends with FileNotFound.
    """
    for number in range(-(-file.bytes // CHUNK_BYTES)):
        with database.statement() as session:
            data = session.scalar(_CHUNK, {"file": file.id, "chunk": number})
        if data is None:
            raise FileNotFound
        yield bytes(data)


class Line(NamedTuple):
    """A line of a file: where it is, and its text, or None where it is longer than allowed."""

    offset: int
    size: int
    text: bytes | None

    @property
    def end(self) -> int:
        """Where the next one begins."""
        return self.offset + self.size


class Reader:
    """Reads pieces of a file in one transaction, and keeps two chunks of it."""

    def __init__(self, session: Session, file_id: UUID, *, longest_line: int) -> None:
        self._session = session
        self._file_id = file_id
        self._longest_line = longest_line
        self._chunks: dict[int, bytes] = {}

    def read(self, offset: int, size: int) -> bytes:
        """So many bytes from there, or fewer at the end."""
        found = b""
        while len(found) < size:
            number, at = divmod(offset + len(found), CHUNK_BYTES)
            piece = self._load(number)[at : at + size - len(found)]
            if not piece:
                break
            found += piece
        return found

    def lines(self, offset: int) -> Iterator[Line]:
        """The lines from there on, with their line feeds; the last may have none."""
        while True:
            size, over = self._measure(offset)
            if not size:
                return
            yield Line(offset, size, None if over else self.read(offset, size))
            offset += size

    def _measure(self, offset: int) -> tuple[int, bool]:
        """The length of the line that begins there, and whether it is too long to be kept."""
        return _until_feed(self._load, offset, self._longest_line)

    def _load(self, number: int) -> bytes:
        if number not in self._chunks:
            if len(self._chunks) > 1:
                del self._chunks[min(self._chunks)]
            data = self._session.scalar(_CHUNK, {"file": self._file_id, "chunk": number})
            self._chunks[number] = bytes(data or b"")
        return self._chunks[number]


def _until_feed(load: Callable[[int], bytes], offset: int, longest: int) -> tuple[int, bool]:
    size = 0
    while True:
        number, at = divmod(offset + size, CHUNK_BYTES)
        chunk = load(number)
        feed = chunk.find(b"\n", at)
        size += (feed + 1 if feed >= 0 else len(chunk)) - at if at < len(chunk) else 0
        if feed >= 0 or len(chunk) < CHUNK_BYTES:
            return size, size > longest
