"""When the API was away by our doing: only then may a connection to it break."""

import math
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(slots=True)
class Span:
    """From the moment before a kill to the first answer to a request sent after it."""

    began: float
    gone: float = math.inf
    ended: float = math.inf


class Downtime:
    """All such spans, by the monotonic clock."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._spans: list[Span] = []

    @contextmanager
    def beginning(self) -> Iterator[None]:
        """The API is killed in this block; it may still answer while that happens."""
        span = Span(time.monotonic())
        with self._lock:
            self._spans.append(span)
        yield
        span.gone = time.monotonic()

    def answered(self, sent_at: float) -> None:
        """It answered a request of that moment, so it is back if that was after the kill."""
        with self._lock:
            for span in self._spans:
                if span.gone < sent_at and span.ended == math.inf:
                    span.ended = time.monotonic()

    def explains(self, sent_at: float) -> bool:
        """Whether a request that was sent then, and broke now, met a span."""
        with self._lock:
            return any(span.ended >= sent_at for span in self._spans)
