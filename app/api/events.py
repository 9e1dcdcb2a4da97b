"""A job as server-sent events."""

import json
import re
import time
from collections.abc import Iterator

from flask import Blueprint, Response, request

from app import errors
from app.accounts.principal import Principal
from app.api.following import Ended, Event, Following, Position, Stands, Text, Tick
from app.api.jobs import parse_id
from app.api.operations import operation
from app.api.services import services
from app.api.sse import HEADERS, KEEP_ALIVE_SECONDS, MEDIA_TYPE

blueprint = Blueprint("events", __name__)

END = "end"


@operation(
    blueprint,
    "GET",
    "/jobs/<job_id>/events",
    answer=None,
    streams=True,
    headers={
        "Last-Event-ID": "The id of the last event that you have; the stream goes on after it."
    },
    also=(204,),
    errors=(errors.JobNotFound,),
)
def job_events(principal: Principal, job_id: str) -> Response:
    """Stream a job up to its end: how it stands (event "status"), its text as it grows ("delta"),
    and the whole job ("end").

    After the end the stream can be read as well. 204: there is nothing after that Last-Event-ID.
    """
    document = services().reader.read(principal.account_id, parse_id(job_id))
    last = request.headers.get("Last-Event-ID", "")
    if last == END:
        return Response(status=204)
    following = Following(services(), principal.account_id, document, position(last))
    return Response(_lines(following.events()), mimetype=MEDIA_TYPE, headers=HEADERS)


def position(last: str) -> Position:
    """Where a reader is that has this event; at the beginning if it is none of ours."""
    found = re.fullmatch(r"(\d{1,9}):(\d{1,12})", last)
    return Position(int(found[1]), int(found[2])) if found else Position()


def _lines(events: Iterator[Event]) -> Iterator[str]:
    said_at = time.monotonic()
    yield "retry: 1000\n\n"
    for event in events:
        if not isinstance(event, Tick):
            yield _event(event)
        elif time.monotonic() < said_at + KEEP_ALIVE_SECONDS:
            continue
        else:
            yield ":\n\n"  # a comment
        said_at = time.monotonic()


def _event(event: Stands | Text | Ended) -> str:
    name, data, event_id = describe(event)
    line = f"id: {event_id}\n" if event_id else ""
    return f"{line}event: {name}\ndata: {data}\n\n"


def describe(event: Stands | Text | Ended) -> tuple[str, str, str]:
    """An event's name, its data as JSON, and its id, which is empty where none is needed."""
    match event:
        case Stands(standing, waiting):
            document = waiting.model_dump(mode="json") if waiting else None
            status = {"status": standing.status, "attempt": standing.attempt, "waiting": document}
            return "status", json.dumps(status), ""
        case Text(attempt, offset, text):
            data = {"attempt": attempt, "offset": offset, "text": text}
            end = event.position
            return "delta", json.dumps(data), f"{end.attempt}:{end.offset}"
        case Ended(document):
            return END, document.model_dump_json(), END
