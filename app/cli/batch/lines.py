"""The input: one JSON object per line, each the body of a job."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from app.cli.problem import Problem

ENDPOINTS = ("chat", "generate", "complete")


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A job to submit."""

    number: int
    custom_id: str
    endpoint: str
    body: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class BadLine:
    """A line that is no job, and why."""

    number: int
    custom_id: str
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Survey:
    """What one look over the whole input tells: how many lines there are, and which input it is."""

    lines: int
    sha256: str


class _BadError(ValueError):
    """Why a line is bad."""

    def __init__(self, code: str, message: str, custom_id: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.custom_id = custom_id


def survey(path: Path) -> Survey:
    """Count the lines that are not blank; raises Problem when the file cannot be read."""
    if not path.is_file():
        raise Problem(f"{path} is not a file.")
    digest, lines = hashlib.sha256(), 0
    with path.open("rb") as file:
        for raw in file:
            digest.update(raw)
            lines += not _is_blank(raw)
    return Survey(lines, digest.hexdigest())


def read(path: Path) -> Iterator[Line | BadLine]:
    """Every line that is not blank, in order."""
    taken: dict[str, int] = {}
    with path.open("rb") as file:
        for number, raw in enumerate(file, start=1):
            if not _is_blank(raw):
                yield _read_line(number, raw, taken)


def _read_line(number: int, raw: bytes, taken: dict[str, int]) -> Line | BadLine:
    try:
        line = _parse(number, raw)
        if line.custom_id in taken:
            raise _BadError(
                "duplicate_custom_id",
                f'line {taken[line.custom_id]} has the custom_id "{line.custom_id}", too',
                line.custom_id,
            )
    except _BadError as bad:
        custom_id = bad.custom_id or str(number)
        return BadLine(number=number, custom_id=custom_id, code=bad.code, message=str(bad))
    taken[line.custom_id] = number
    return line


def _parse(number: int, raw: bytes) -> Line:
    fields = _object(raw)
    custom_id = fields.pop("custom_id", str(number))
    if not isinstance(custom_id, str):
        raise _BadError("invalid_custom_id", "custom_id must be a string")
    try:
        endpoint = _endpoint(fields)
    except _BadError as bad:
        bad.custom_id = custom_id
        raise
    body = json.dumps(fields).encode()
    return Line(number=number, custom_id=custom_id, endpoint=endpoint, body=body)


def _object(raw: bytes) -> dict[str, Any]:
    try:
        fields = json.loads(raw.decode("utf-8-sig"), parse_constant=_refuse_constant)
    except RecursionError:
        raise _BadError("invalid_json", "not valid JSON: too deeply nested") from None
    except UnicodeDecodeError:
        raise _BadError("invalid_json", "not valid JSON: not UTF-8") from None
    except ValueError as error:
        reason = str(error).partition(": line 1 ")[0]  # the line number would be a wrong one
        raise _BadError("invalid_json", f"not valid JSON: {reason}") from None
    if not isinstance(fields, dict):
        raise _BadError("not_an_object", "not a JSON object")
    return fields


def _endpoint(fields: dict[str, Any]) -> str:
    default = "chat" if "messages" in fields else "generate" if "prompt" in fields else None
    endpoint = fields.pop("endpoint", default)
    if endpoint is None:
        raise _BadError("no_prompt", 'needs "messages" or "prompt"')
    if endpoint not in ENDPOINTS:
        raise _BadError("unknown_endpoint", f"endpoint must be one of {', '.join(ENDPOINTS)}")
    return str(endpoint)


def _is_blank(raw: bytes) -> bool:
    return not raw.strip(b"\xef\xbb\xbf \t\r\n")


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")
