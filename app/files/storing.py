"""Writing files: begun, grown piece by piece, and seen by their owner once they are complete."""

from collections.abc import Iterator
from datetime import timedelta
from uuid import UUID

from sqlalchemy import Select, delete, func, or_, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session
from uuid_utils.compat import uuid7

from app.errors import FileInUse
from app.files.reading import owned_file
from app.files.tables import CHUNK_BYTES, File, FileChunk, Purpose

_BROKEN_AFTER = timedelta(hours=1)  # without a piece, an upload does not go on

InUse = Select[UUID]  # the files that somebody still needs


def begin_file(session: Session, account_id: UUID, purpose: Purpose, *, filename: str) -> UUID:
    """A new, empty file, which nobody sees yet."""
    file_id: UUID = uuid7()
    session.add(
        File(id=file_id, account_id=account_id, purpose=purpose, filename=filename, bytes=0)
    )
    session.flush()
    return file_id


_APPEND = insert(FileChunk)
_APPEND = _APPEND.on_conflict_do_update(
    index_elements=[FileChunk.file_id, FileChunk.number],
    set_={"data": FileChunk.data.op("||")(_APPEND.excluded.data)},
)


def append(session: Session, file_id: UUID, data: bytes) -> None:
    """Add to the end of a file. It is locked, so that two writers follow one another."""
    grown = session.execute(
        update(File)
        .where(File.id == file_id, File.completed_at.is_(None))
        .values(bytes=File.bytes + len(data), written_at=func.now())
        .returning(File.account_id, File.bytes)
        .execution_options(synchronize_session=False)
    ).one()
    pieces = _pieces(grown.bytes - len(data), data)
    rows = [
        {"file_id": file_id, "number": number, "account_id": grown.account_id, "data": piece}
        for number, piece in pieces
    ]
    session.execute(_APPEND, rows)


def complete(
    session: Session, file_id: UUID, *, filename: str, expires_after_seconds: int | None
) -> File:
    """From now on its owner sees it."""
    expires_at = None
    if expires_after_seconds is not None:
        expires_at = File.created_at + timedelta(seconds=expires_after_seconds)
    return session.scalars(
        update(File)
        .where(File.id == file_id, File.completed_at.is_(None))
        .values(completed_at=func.now(), filename=filename, expires_at=expires_at)
        .returning(File)
        .execution_options(populate_existing=True, synchronize_session=False)
    ).one()


def discard(session: Session, file_id: UUID) -> None:
    """Take back what was begun."""
    session.execute(delete(File).where(File.id == file_id, File.completed_at.is_(None)))


def delete_file(session: Session, account_id: UUID, file_id: UUID, *, in_use: InUse) -> None:
    """Delete an owner's file; raises FileNotFound or FileInUse."""
    owned_file(session, account_id, file_id, lock=True)
    if session.scalar(select(File.id).where(File.id == file_id, File.id.in_(in_use))):
        raise FileInUse
    session.execute(delete(File).where(File.id == file_id))


def forget_files(session: Session, *, in_use: InUse, limit: int = 4) -> bool:
    """Delete what broken uploads left, and files past their life; whether there were any."""
    broken = (
        (File.completed_at.is_(None))
        & (File.purpose == Purpose.BATCH)  # an output grows as long as its batch is open
        & (File.written_at < func.now() - _BROKEN_AFTER)
    )
    old = (
        select(File.id)
        .where(or_(broken, File.expires_at < func.now()), File.id.not_in(in_use))
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    gone = session.scalars(delete(File).where(File.id.in_(old)).returning(File.id)).all()
    return bool(gone)


def _pieces(start: int, data: bytes) -> Iterator[tuple[int, bytes]]:
    """The data by chunk, where it begins at this offset of the file."""
    at = 0
    while at < len(data):
        number, used = divmod(start + at, CHUNK_BYTES)
        piece = data[at : at + CHUNK_BYTES - used]
        yield number, piece
        at += len(piece)
