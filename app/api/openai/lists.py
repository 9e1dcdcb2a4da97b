"""Lists in OpenAI's form, what they are asked, and the ids in them."""

import re
from collections.abc import Sequence
from typing import Annotated, Any, Generic, Literal, Self, TypeVar
from uuid import UUID

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from app.errors import GPTQueueError
from app.jobs.document import Document
from app.openai.batches import BatchObject
from app.openai.files import FileObject

Item = TypeVar("Item", FileObject, BatchObject)


def parsed_id(text: str, prefix: str, missing: type[GPTQueueError]) -> UUID:
    """The id behind the prefix; raises ``missing`` where it is none."""
    found = re.fullmatch(re.escape(prefix) + "([0-9a-f]{32})", text)
    if found is None:
        raise missing
    return UUID(found[1])


def _after(prefix: str) -> BeforeValidator:
    def parse(text: Any) -> UUID:
        try:
            return parsed_id(str(text), prefix, GPTQueueError)
        except GPTQueueError:
            raise ValueError(f"is the id of the last one of a page: {prefix}...") from None

    return BeforeValidator(parse, json_schema_input_type=str)


class FilesQuery(BaseModel):
    """Which files to list, newest first unless ``order`` says otherwise."""

    model_config = ConfigDict(extra="forbid")

    purpose: Literal["batch", "batch_output"] | None = None
    after: Annotated[UUID, _after("file-")] | None = None
    order: Literal["asc", "desc"] = "desc"
    limit: int = Field(10_000, ge=1, le=10_000)


class BatchesQuery(BaseModel):
    """Which batches to list, newest first."""

    model_config = ConfigDict(extra="forbid")

    after: Annotated[UUID, _after("batch_")] | None = None
    limit: int = Field(20, ge=1, le=100)


class _Listed(Document, Generic[Item]):
    object: Literal["list"] = "list"
    data: list[Item]
    first_id: str | None
    last_id: str | None
    has_more: bool

    @classmethod
    def of(cls, data: Sequence[Item], *, more: bool) -> Self:
        """A page; ``more`` says that there is another."""
        return cls(
            data=list(data),
            first_id=data[0].id if data else None,
            last_id=data[-1].id if data else None,
            has_more=more,
        )


class FileList(_Listed[FileObject]):
    """A page of files."""


class BatchList(_Listed[BatchObject]):
    """A page of batches."""
