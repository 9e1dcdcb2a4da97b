"""The events of several jobs, as they come."""

import queue
import threading
from collections.abc import Iterator, Sequence

import structlog

from app.api.following import Ended, Event, Following
from app.errors import GPTQueueError

log = structlog.get_logger(__name__)

_Item = tuple[int, Event | GPTQueueError]


def merged(followed: Sequence[Following]) -> Iterator[tuple[int, Event]]:
    """Each event with the place of its job; up to the last end."""
    if len(followed) == 1:
        yield from ((0, event) for event in followed[0].events())
        return
    heard: queue.Queue[_Item] = queue.Queue()
    closed = threading.Event()
    for index, each in enumerate(followed):
        place = {"index": index, "heard": heard, "closed": closed}
        threading.Thread(target=_pump, args=(each,), kwargs=place, daemon=True).start()
    left = len(followed)
    try:
        while left:
            index, event = heard.get()
            if isinstance(event, GPTQueueError):
                raise event
            left -= isinstance(event, Ended)
            yield index, event
    finally:
        closed.set()


def _pump(
    following: Following, *, index: int, heard: "queue.Queue[_Item]", closed: threading.Event
) -> None:
    try:
        for event in following.events():
            if closed.is_set():
                return
            heard.put((index, event))
    except GPTQueueError as error:
        heard.put((index, error))
    except Exception:  # nobody may wait for a choice that never comes
        log.exception("stream_failed")
        heard.put((index, GPTQueueError()))
