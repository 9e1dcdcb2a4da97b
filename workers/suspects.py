"""Jobs that were lost with an engine run in smaller company than before: one of them may kill it.

Nobody knows which of the jobs in an engine it died of, so all of them count as lost. Were they to
run together again, the one that kills would take the same neighbours along until all have failed.
So those that were lost share an engine with fewer others that were, and on their last attempt with
none. It is the group testing of Dorfman (1943). One that finds no room goes back to the queue, for
whoever has some; it keeps no slot from new jobs, which run meanwhile.
"""

import threading


class Suspects:
    """The room for them in one engine; new jobs need none."""

    def __init__(self, *, slots: int, max_attempts: int) -> None:
        """``slots`` of the engine; a job fails with its loss number ``max_attempts``."""
        self._room = slots
        self._max_attempts = max_attempts
        self._taken = 0
        self._refused = 0
        self._shut = False
        self._lock = threading.Lock()

    @property
    def wanted(self) -> bool:
        """Whether one may be claimed. Not while one that found no room waits for those inside to
        leave: others would overtake it.
        """
        with self._lock:
            return not self._shut and self._taken + self._share(1) <= self._room

    def enter(self, losses: int) -> bool:
        """Whether a job of so many ``losses`` may run now; then it is to ``leave``."""
        if losses == 0:
            return True
        with self._lock:
            if self._taken + self._share(losses) > self._room:
                self._refused += 1
                self._shut = True
                return False
            self._taken += self._share(losses)
            return True

    def leave(self, losses: int) -> int:
        """Make room; for how many of those that found none."""
        if losses == 0:
            return 0
        with self._lock:
            share = self._share(losses)
            self._taken -= share
            self._shut = False
            called = min(self._refused, max(1, share // self._share(1)))
            self._refused -= called
            return called

    def _share(self, losses: int) -> int:
        """How much of the room it takes: all of it on its last attempt, and on those before the
        less the more of them are left. Of 16 slots and 3 attempts: 4, then 16.
        """
        steps = max(1, self._max_attempts - 1)
        return round(float(self._room ** (min(losses, steps) / steps)))
