"""Jobs that were lost with an engine run in smaller company than before: one of them may kill it.

Nobody knows which of the jobs in an engine it died of, so all of them count as lost. Were they to
run together again, the one that kills would take the same neighbours along until all have failed.
So those that were lost share an engine with fewer others that were, and on their last attempt with
none: a job that kills engines fails alone. It is the group testing of Dorfman (1943).
"""

import math
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from app.jobs.transition import Lease


class Suspects:
    """The room for them in one engine; new jobs need none."""

    def __init__(self, *, slots: int, max_attempts: int) -> None:
        """``slots`` of the engine; a job fails with its loss number ``max_attempts``."""
        self._room = slots
        self._max_attempts = max_attempts
        self._taken = 0
        self._queue: deque[Lease] = deque()  # the first is let in first, so that nobody starves
        self._hurried: set[Lease] = set()
        self._changed = threading.Condition()

    @contextmanager
    def among(self, lease: Lease, *, losses: int, seconds: float) -> Iterator[None]:
        """Run the block when a job of so many ``losses`` may run, after ``seconds`` in any case."""
        if losses == 0:
            yield
            return
        share = self._share(losses)
        self._enter(lease, share, seconds)
        try:
            yield
        finally:
            with self._changed:
                self._taken -= share
                self._changed.notify_all()

    def hurry(self, lease: Lease) -> None:
        """Let this one wait no longer: in the engine it then hears that it is to end."""
        with self._changed:
            if lease in self._queue:
                self._hurried.add(lease)
                self._changed.notify_all()

    def _share(self, losses: int) -> int:
        """How much of the room it takes: all of it on its last attempt, and on those before the
        less the more of them are left. Of 64 slots and 3 attempts: 8, then 64.
        """
        steps = max(1, self._max_attempts - 1)
        return round(math.pow(self._room, min(losses, steps) / steps))

    def _enter(self, lease: Lease, share: int, seconds: float) -> None:
        with self._changed:
            self._queue.append(lease)
            self._changed.wait_for(
                lambda: (
                    lease in self._hurried
                    or (self._queue[0] == lease and self._taken + share <= self._room)
                ),
                seconds,
            )
            self._queue.remove(lease)
            self._hurried.discard(lease)
            self._taken += share
            self._changed.notify_all()
