"""A file and its content, in chunks."""

from datetime import datetime
from enum import StrEnum
from uuid import UUID

from sqlalchemy import CheckConstraint, ForeignKey, Index, LargeBinary, func, text
from sqlalchemy.orm import Mapped, mapped_column

from app.db import Base


class Purpose(StrEnum):
    """What a file is for."""

    BATCH = "batch"  # the lines of a batch, uploaded
    BATCH_OUTPUT = "batch_output"  # what became of them, made here


class File(Base):
    """A file; it is there for its owner once ``completed_at`` is set."""

    __tablename__ = "files"
    __table_args__ = (
        CheckConstraint("purpose IN ('batch', 'batch_output')", name="purpose"),
        Index("ix_files_account", "account_id", "id"),
        Index("ix_files_unfinished", "written_at", postgresql_where=text("completed_at IS NULL")),
        Index("ix_files_expiry", "expires_at", postgresql_where=text("expires_at IS NOT NULL")),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True)
    account_id: Mapped[UUID] = mapped_column(ForeignKey("accounts.id"))
    purpose: Mapped[str]
    filename: Mapped[str]
    bytes: Mapped[int]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    written_at: Mapped[datetime] = mapped_column(server_default=func.now())
    completed_at: Mapped[datetime | None]
    expires_at: Mapped[datetime | None]


class FileChunk(Base):
    """A piece of a file. All have CHUNK_BYTES but the last, so an offset says which it is in."""

    __tablename__ = "file_chunks"

    file_id: Mapped[UUID] = mapped_column(
        ForeignKey("files.id", ondelete="CASCADE"), primary_key=True
    )
    number: Mapped[int] = mapped_column(primary_key=True)
    account_id: Mapped[UUID] = mapped_column(ForeignKey("accounts.id"))
    data: Mapped[bytes] = mapped_column(LargeBinary)


CHUNK_BYTES = 256 * 1024
