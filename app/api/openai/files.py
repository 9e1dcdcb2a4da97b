"""Files: what batches read and write."""

from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

from flask import Blueprint, Response

from app import errors
from app.accounts.principal import Principal
from app.api.openai.lists import FileList, FilesQuery, parsed_id
from app.api.operations import COMPATIBLE, operation
from app.api.services import services
from app.api.uploads import read_form
from app.batches.queries import INPUTS_IN_USE
from app.files import reading, storing
from app.files.tables import File, Purpose
from app.files.uploading import Upload
from app.openai.files import FileDeleted, FileForm, FileObject, file_id, file_object
from app.validation import made

blueprint = Blueprint("openai_files", __name__, url_prefix=COMPATIBLE)


@operation(
    blueprint,
    "POST",
    "/files",
    form=FileForm,
    answer=FileObject,
    errors=(
        errors.MalformedRequest,
        errors.BodyTooLarge,
        errors.NotMultipart,
        errors.InvalidRequest,
    ),
)
def create_file(principal: Principal) -> FileObject:
    """Upload a file; it is there when the answer is, and nothing of a broken upload ever is."""
    settings, database = services().settings, services().database
    with Upload(database, principal.account_id, Purpose.BATCH) as upload:
        sent = read_form(upload.write, most_bytes=settings.max_file_bytes)
        form = made(FileForm, _as_json(sent.fields, sent.filename))
        file = upload.complete(
            filename=form.file,
            expires_after_seconds=form.expires_after.seconds if form.expires_after else None,
        )
    return file_object(file)


@operation(
    blueprint,
    "GET",
    "/files",
    query=FilesQuery,
    answer=FileList,
    errors=(errors.InvalidRequest,),
)
def list_files(principal: Principal, query: FilesQuery) -> FileList:
    """List the account's files."""
    wanted = reading.Wanted(
        purpose=query.purpose, after=query.after, order=query.order, limit=query.limit
    )
    with services().database.transaction() as session:
        found, more = reading.page(session, principal.account_id, wanted)
    return FileList.of([file_object(file) for file in found], more=more)


@operation(blueprint, "GET", "/files/<file>", answer=FileObject, errors=(errors.FileNotFound,))
def get_file(principal: Principal, file: str) -> FileObject:
    """Read what is known of a file."""
    return file_object(_owned(principal, file))


@operation(
    blueprint,
    "GET",
    "/files/<file>/content",
    answer=None,
    downloads=True,
    errors=(errors.FileNotFound,),
)
def get_file_content(principal: Principal, file: str) -> Response:
    """Download a file."""
    found = _owned(principal, file)
    headers = {
        # Who gets fewer bytes than these knows that the download broke off.
        "Content-Length": str(found.bytes),
        "Content-Disposition": f"attachment; filename*=UTF-8''{quote(found.filename)}",
    }
    return Response(_content(found), mimetype="application/octet-stream", headers=headers)


@operation(
    blueprint,
    "DELETE",
    "/files/<file>",
    answer=FileDeleted,
    errors=(errors.FileNotFound, errors.FileInUse),
)
def delete_file(principal: Principal, file: str) -> FileDeleted:
    """Delete a file that no open batch reads."""
    unique = parsed_id(file, "file-", errors.FileNotFound)
    with services().database.transaction() as session:
        storing.delete_file(session, principal.account_id, unique, in_use=INPUTS_IN_USE)
    return FileDeleted(id=file_id(unique))


def _owned(principal: Principal, file: str) -> File:
    unique = parsed_id(file, "file-", errors.FileNotFound)
    with services().database.statement() as session:
        return reading.owned_file(session, principal.account_id, unique)


def _content(file: File) -> Iterator[bytes]:
    return reading.content(services().database, file)


def _as_json(fields: dict[str, str], filename: str | None) -> dict[str, Any]:
    """The form as nested values: clients write a.b as a[b]."""
    nested: dict[str, Any] = {}
    for name, value in fields.items():
        outer, bracket, inner = name.partition("[")
        within = nested.setdefault(outer, {}) if bracket else None
        if isinstance(within, dict) and inner.endswith("]"):
            within[inner[:-1]] = value
        else:
            nested[name] = value
    return nested if filename is None else {**nested, "file": filename}
