"""A response as the events of OpenAI's Responses API.

An event's ``sequence_number`` says where in the response it stands: 0 to 3 are its beginning, then
each piece of text has the number of characters up to its end, and those of the end follow. So any
replica can go on after any of them, also when the response has ended.
"""

import json
from collections.abc import Iterator
from typing import Any

from app.api.following import Ended, Following, Stands, Text
from app.api.openai.response_answers import (
    OutputMessage,
    OutputText,
    ResponseDocument,
    message_id,
    response,
)
from app.api.openai.streams import Told
from app.errors import StreamInterrupted
from app.jobs.asked import Asked
from app.openai import errors

_FIRST_TEXT = 3  # the last number of the beginning
_PLACE = {"output_index": 0, "content_index": 0}
_EMPTY = OutputText(text="")

Body = dict[str, Any]


def lines(following: Following, asked: Asked, after: int) -> Iterator[str]:
    """What comes after the event of that number (-1: all), as lines; empty ones where nothing
    happens for a while.
    """
    told = Told()
    size = 0
    yield from _shown(_beginning(following, asked), after)
    for event in following.events():
        match event:
            case Text():
                try:
                    fresh = told.take(event)
                except StreamInterrupted as error:
                    yield f"event: error\ndata: {json.dumps(_interrupted(error, size))}\n\n"
                    return
                before, size = size, size + len(fresh)
                unread = fresh[max(0, after - _FIRST_TEXT - before) :]
                if unread:
                    yield _line(_FIRST_TEXT + size, _delta(following, unread))
            case Ended(document):
                whole = response(document, asked)
                try:
                    _check(told, whole)
                except StreamInterrupted as error:
                    yield f"event: error\ndata: {json.dumps(_interrupted(error, size))}\n\n"
                    return
                yield from _shown(_end(whole, _FIRST_TEXT + size), after)
            case Stands():
                pass  # the beginning has said it
            case _:
                yield ""


def _check(told: Told, whole: ResponseDocument) -> None:
    for item in whole.output:
        told.check(item.content[0].text)


def _beginning(following: Following, asked: Asked) -> list[tuple[int, Body]]:
    """Always the same, however far the job has come."""
    job = following.document
    fresh = response(job, asked).model_copy(
        update={
            "status": "queued",
            "output": [],
            "usage": None,
            "completed_at": None,
            "error": None,
            "incomplete_details": None,
        }
    )
    runs = fresh.model_copy(update={"status": "in_progress"})
    item = OutputMessage(id=message_id(job.id), status="in_progress", content=[])
    part = {"item_id": item.id, **_PLACE, "part": _EMPTY.model_dump()}
    added = {"output_index": 0, "item": item.model_dump()}
    return [
        (0, {"type": "response.created", "response": fresh.model_dump()}),
        (1, {"type": "response.in_progress", "response": runs.model_dump()}),
        (2, {"type": "response.output_item.added", **added}),
        (3, {"type": "response.content_part.added", **part}),
    ]


def _delta(following: Following, text: str) -> Body:
    item = message_id(following.document.id)
    kind = "response.output_text.delta"
    return {"type": kind, "item_id": item, **_PLACE, "delta": text, "logprobs": []}


def _end(whole: ResponseDocument, last: int) -> list[tuple[int, Body]]:
    """``last`` is the number of the last piece of text."""
    events: list[Body] = []
    for item in whole.output:
        place = {"item_id": item.id, **_PLACE}
        text = item.content[0].model_dump()
        events += [
            {
                "type": "response.output_text.done",
                **place,
                "text": text["text"],
                "logprobs": text["logprobs"],
            },
            {"type": "response.content_part.done", **place, "part": text},
            {"type": "response.output_item.done", "output_index": 0, "item": item.model_dump()},
        ]
    events.append({"type": f"response.{whole.status}", "response": whole.model_dump()})
    return list(enumerate(events, start=last + 1))


def _interrupted(error: StreamInterrupted, size: int) -> Body:
    detail = errors.envelope(error).error
    number = _FIRST_TEXT + size + 1
    return {
        "type": "error",
        "code": detail.code,
        "message": detail.message,
        "param": None,
        "sequence_number": number,
    }


def _shown(events: list[tuple[int, Body]], after: int) -> Iterator[str]:
    return (_line(number, body) for number, body in events if number > after)


def _line(number: int, body: Body) -> str:
    data = json.dumps({**body, "sequence_number": number})
    return f"event: {body['type']}\ndata: {data}\n\n"
