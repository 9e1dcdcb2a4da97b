"""The time that a worker has between being asked to stop and having to be done.

Celery lets the tasks in hand end, however long they take, and within a second takes no more of
them; whoever supervises the process waits only so long.
"""

import time
from collections.abc import Callable
from queue import SimpleQueue
from threading import Thread

import structlog

log = structlog.get_logger(__name__)


class Grace:
    """Calls ``over`` so many seconds after ``count_down``, unless the process has ended by then."""

    def __init__(self, seconds: float, *, over: Callable[[], None]) -> None:
        self._seconds = seconds
        self._over = over
        self._asked: SimpleQueue[None] = SimpleQueue()
        self.begun = False

    def start(self) -> None:
        """Wait for ``count_down``, in the background."""
        Thread(target=self._run, name="grace", daemon=True).start()

    def count_down(self) -> None:
        """For a signal handler: it takes no lock that the thread it interrupts may hold."""
        self.begun = True
        self._asked.put(None)

    def _run(self) -> None:
        self._asked.get()
        log.info("worker_stopping", grace_seconds=self._seconds)
        time.sleep(self._seconds)
        self._over()
