"""validating -> in_progress or failed: read the input, a group of lines in each step."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice
from typing import Any, cast

from pydantic import ValidationError
from sqlalchemy import BigInteger, String, Table, Uuid, delete, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from app.batches.tables import Batch, BatchLine, LineState, State
from app.catalog import Catalog
from app.config import Settings
from app.errors import InvalidJSON
from app.files.reading import Line, Reader
from app.openai.batches import BatchProblem, LineBody
from app.rows import given
from app.validation import named, refusal

MOST_LINES = 50_000
GROUP_LINES = 1000
GROUP_BYTES = 1 << 20
_MOST_PROBLEMS = 50


@dataclass(slots=True)
class _Found:
    """What a group of lines is."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    problems: list[BatchProblem] = field(default_factory=list)
    model: str | None = None


def validate(
    session: Session, batch: Batch, *, now: datetime, catalog: Catalog, settings: Settings
) -> None:
    """Read the next lines; the whole batch fails where one of them is not what a line must be."""
    reader = Reader(session, batch.input_file_id, longest_line=settings.max_body_bytes)
    lines = list(_group(reader.lines(batch.read_bytes)))
    found = _Found(model=batch.model)
    for number, line in enumerate(lines, batch.read_lines + 1):
        _look(line, number, found, endpoint=batch.endpoint, catalog=catalog)
    found.problems += _store(session, batch, found.rows)
    batch.model = found.model
    batch.lines += len(found.rows)
    batch.waiting += len(found.rows)
    batch.read_lines += len(lines)
    batch.read_bytes += sum(line.size for line in lines)
    if not lines and not batch.lines:
        found.problems.append(_problem("empty_file", "The input file has no lines."))
    if batch.lines > MOST_LINES or batch.read_lines > 2 * MOST_LINES:  # with the empty ones
        found.problems.append(
            _problem("too_many_lines", f"The input file has more than {MOST_LINES} lines.")
        )
    if found.problems:
        _fail(session, batch, found.problems, now=now)
    elif not lines:
        batch.state, batch.in_progress_at = State.IN_PROGRESS, now


def _group(lines: Iterator[Line]) -> Iterator[Line]:
    """As many as a step takes; at least one, if there is one."""
    size = 0
    for line in islice(lines, GROUP_LINES):
        yield line
        size += line.size
        if size > GROUP_BYTES:
            return


def _look(line: Line, number: int, found: _Found, *, endpoint: str, catalog: Catalog) -> None:
    if line.text is None:
        found.problems.append(_problem("line_too_large", "The line is too long.", line=number))
        return
    if not line.text.strip():
        return
    try:
        # Some editors begin a file with a mark.
        body = LineBody.model_validate_json(line.text.removeprefix(b"\xef\xbb\xbf"))
    except ValidationError as error:
        found.problems.append(_refused(error, number))
        return
    said = body.body.model
    found.model = found.model or said
    if body.url != endpoint:
        message = f"The url is not the endpoint of the batch, {endpoint}."
        found.problems.append(_problem("mismatched_url", message, line=number, param="url"))
    elif said != found.model:
        message = "All lines of a batch name the same model."
        found.problems.append(
            _problem("mismatched_model", message, line=number, param="body.model")
        )
    elif said not in catalog.enabled():
        message = f"The model {said[:100]!r} is not served here."
        found.problems.append(_problem("model_not_found", message, line=number, param="body.model"))
    else:
        row = {"number": number, "custom_id": body.custom_id}
        found.rows.append({**row, "first_byte": line.offset, "bytes": line.size})


_READ = given(
    "read",
    batch_id=Uuid,
    account_id=Uuid,
    number=BigInteger,
    custom_id=String,
    first_byte=BigInteger,
    bytes=BigInteger,
    state=String,
)
_LINES = cast(Table, BatchLine.__table__)  # the ORM's inserts take rows only
_STORE = (
    insert(_LINES)
    .from_select(list(_READ.c.keys()), select(_READ))
    .on_conflict_do_nothing(index_elements=[_LINES.c.batch_id, _LINES.c.custom_id])
    .returning(_LINES.c.number)
)


def _store(
    session: Session, batch: Batch, rows: Sequence[dict[str, Any]]
) -> Iterable[BatchProblem]:
    """Store lines; those are not stored whose custom_id is there already."""
    if not rows:
        return []
    shared = {"batch_id": batch.id, "account_id": batch.account_id, "state": LineState.WAITING}
    stored = set(session.scalars(_STORE, {"read": [{**shared, **row} for row in rows]}))
    return [
        _problem(
            "duplicate_custom_id",
            f"The custom_id {row['custom_id'][:100]!r} is that of an earlier line.",
            line=row["number"],
            param="custom_id",
        )
        for row in rows
        if row["number"] not in stored
    ]


def _fail(
    session: Session, batch: Batch, problems: Sequence[BatchProblem], *, now: datetime
) -> None:
    batch.state, batch.failed_at = State.FAILED, now
    batch.errors = [each.model_dump() for each in problems[:_MOST_PROBLEMS]]
    session.execute(delete(BatchLine).where(BatchLine.batch_id == batch.id))
    batch.lines = batch.waiting = 0


def _refused(error: ValidationError, number: int) -> BatchProblem:
    refused = refusal(error, LineBody)
    if isinstance(refused, InvalidJSON):
        message = refused.message.replace("The body", "The line")
        return _problem("invalid_json_line", message, line=number)
    param = named(error.errors()[0]["loc"]) or None
    return _problem("invalid_request", refused.message, line=number, param=param)


def _problem(
    code: str, message: str, *, line: int | None = None, param: str | None = None
) -> BatchProblem:
    return BatchProblem(code=code, message=message, line=line, param=param)
