"""How quickly lines end, and when the last one will."""

import time
from collections import deque

WINDOW_SECONDS = 30.0


class Pace:
    """The rate over the last seconds: what came before a pause says nothing of what follows."""

    def __init__(self, left: int) -> None:
        self._left = left
        self._ends: deque[float] = deque([time.monotonic()])

    def note(self) -> None:
        """One more has ended."""
        self._left -= 1
        self._ends.append(time.monotonic())
        while self._ends[0] < self._ends[-1] - WINDOW_SECONDS and len(self._ends) > 2:
            self._ends.popleft()

    @property
    def per_second(self) -> float:
        """0 as long as none has ended."""
        passed = time.monotonic() - self._ends[0]
        return (len(self._ends) - 1) / passed if passed else 0.0

    def describe(self) -> str:
        """Rate and time left, for people."""
        rate = self.per_second
        if not rate:
            return "waiting for the first"
        minutes, seconds = divmod(round(self._left / rate), 60)
        hours, minutes = divmod(minutes, 60)
        left = f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
        return f"{rate:.{0 if rate >= 100 else 1}f}/s, {left} left"
