"""Files as OpenAI's clients send and see them."""

from typing import Annotated, Literal
from uuid import UUID

from pydantic import Field, WithJsonSchema

from app.files.tables import File
from app.jobs.bodies import Body, NonEmpty
from app.jobs.document import Document

_BYTES = WithJsonSchema({"type": "string", "format": "binary"})
_HOUR, _MONTH = 3600, 30 * 86_400


class ExpiryBody(Body):
    """How long a file is kept."""

    anchor: Literal["created_at"]
    # A form has nothing but texts.
    seconds: int = Field(ge=_HOUR, le=_MONTH, strict=False)


class FileForm(Body):
    """POST /v1/files; ``expires_after`` is sent as ``expires_after[anchor]`` and ``[seconds]``."""

    file: Annotated[NonEmpty, Field(max_length=512), _BYTES]  # here, its name
    purpose: Literal["batch"]
    expires_after: ExpiryBody | None = None


class FileObject(Document):
    """A file. ``status`` is always processed: what is not complete is not shown."""

    id: str
    object: Literal["file"] = "file"
    bytes: int
    created_at: int
    expires_at: int | None
    filename: str
    purpose: Literal["batch", "batch_output"]
    status: Literal["processed"] = "processed"


class FileDeleted(Document):
    """A file that is gone."""

    id: str
    object: Literal["file"] = "file"
    deleted: Literal[True] = True


def file_object(file: File) -> FileObject:
    """The file as it is shown."""
    return FileObject(
        id=file_id(file.id),
        bytes=file.bytes,
        created_at=int(file.created_at.timestamp()),
        expires_at=int(file.expires_at.timestamp()) if file.expires_at else None,
        filename=file.filename,
        purpose=file.purpose,
    )


def file_id(unique: UUID) -> str:
    """As OpenAI's ids look."""
    return f"file-{unique.hex}"
