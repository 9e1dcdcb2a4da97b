"""A multipart body with a file in it, read as it comes: in the memory of a few pieces."""

from collections.abc import Callable
from dataclasses import dataclass, field

from flask import request
from werkzeug.exceptions import RequestEntityTooLarge
from werkzeug.sansio.multipart import (
    NEED_DATA,
    Data,
    Epilogue,
    Event,
    Field,
    File,
    MultipartDecoder,
)

from app.errors import BodyTooLarge, InvalidRequest, MalformedRequest, NotMultipart

_PIECE_BYTES = 64 * 1024
_BUFFER_BYTES = 1 << 20  # of the decoder: a line of a part's head that never ends
_MOST_PARTS = 20
_MOST_FIELD_BYTES = 4096

Take = Callable[[bytes], None]


@dataclass(slots=True)
class Form:
    """The fields that came with a file, and its name."""

    fields: dict[str, str] = field(default_factory=dict)
    filename: str | None = None


def read_form(take: Take, *, most_bytes: int) -> Form:
    """Hand the content of the part "file" to ``take``, in pieces; returns the rest of the form.

    Raises NotMultipart, MalformedRequest, InvalidRequest or BodyTooLarge.
    """
    boundary = request.mimetype_params.get("boundary", "")
    if request.mimetype != "multipart/form-data" or not boundary:
        raise NotMultipart
    # One that is too large by less than this again is read to its end: a client that still writes
    # would not see the answer.
    request.max_content_length = 2 * most_bytes + _BUFFER_BYTES
    parts = _Parts(take, most_bytes)
    decoder = MultipartDecoder(boundary.encode(), _BUFFER_BYTES, max_parts=_MOST_PARTS)
    try:
        while not isinstance(event := _next(decoder), Epilogue):
            parts.accept(event)
    except RequestEntityTooLarge:
        raise BodyTooLarge from None
    except ValueError as error:
        raise MalformedRequest(f"The form cannot be read: {error}.") from None
    if parts.file_bytes > most_bytes:
        raise _too_large(most_bytes)
    return parts.form


def _next(decoder: MultipartDecoder) -> Event:
    while (event := decoder.next_event()) is NEED_DATA:
        decoder.receive_data(request.stream.read(_PIECE_BYTES) or None)
    return event


def _too_large(most_bytes: int) -> BodyTooLarge:
    message = f"The file has more than {most_bytes} bytes."
    return BodyTooLarge(message, errors=[{"field": "file", "message": message}])


class _Parts:
    """What comes of the form, part by part."""

    def __init__(self, take: Take, most_bytes: int) -> None:
        self.form = Form()
        self.file_bytes = 0
        self._take = take
        self._most_bytes = most_bytes
        self._field: str | None = None  # whose content comes now; None: the file's
        self._content = b""

    def accept(self, event: Event) -> None:
        match event:
            case File():
                self._begin_file(event)
            case Field(name=name):
                self._field, self._content = name or "", b""
            case Data() if self._field is None:
                self._add_to_file(event.data)
            case Data():
                self._add_to_field(event)

    def _begin_file(self, event: File) -> None:
        if event.name != "file" or self.form.filename is not None:
            name = (event.name or "")[:100]
            problem = {"field": name, "message": "one file is expected, in the part file"}
            raise InvalidRequest(f"{name}: {problem['message']}", errors=[problem])
        self._field, self.form.filename = None, event.filename or "file"

    def _add_to_file(self, data: bytes) -> None:
        self.file_bytes += len(data)
        if data and self.file_bytes <= self._most_bytes:
            self._take(data)

    def _add_to_field(self, event: Data) -> None:
        self._content += event.data
        if len(self._content) > _MOST_FIELD_BYTES:
            raise BodyTooLarge
        if not event.more_data:
            self.form.fields[self._field or ""] = self._content.decode()
