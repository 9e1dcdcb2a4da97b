"""Ctrl-C, a termination and a closed terminal, all as one exception in the main thread."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stopped(BaseException):
    """The user wants us to stop."""


class Interrupts:
    """Raises Stopped on a signal, but not while something is held together."""

    def __init__(self) -> None:
        self._pending = False
        self._holding = False

    def install(self) -> None:
        """Take the signals over."""
        for number in SIGNALS:
            signal.signal(number, self._handle)

    def ignore(self) -> None:
        """From here on we are stopping anyway."""
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Put a signal off to the end of the block.

        A child that was started but not yet noted down would never be stopped.
        """
        self._holding = True
        try:
            yield
        finally:
            self._holding = False
        if self._pending:
            raise Stopped

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self._pending = True
        if not self._holding:
            raise Stopped
