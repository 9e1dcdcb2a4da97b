"""Requests that wait for a job's end, woken by the broker's announcements.

One thread per process listens; a request that waits sleeps on an event of its own. An
announcement can get lost (the broker is only a hint), so a waiter also looks for itself now and
then: ``LOOK_SECONDS`` apart.
"""

import threading
import time
from collections.abc import Callable
from uuid import UUID

import structlog
from redis.exceptions import RedisError

from app.queues import Broker

log = structlog.get_logger(__name__)

LOOK_SECONDS = 2.0
_RECONNECT_SECONDS = 1.0


class Waiters:
    """Who waits for which job, in this process."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._events: dict[str, set[threading.Event]] = {}
        self._lock = threading.Lock()
        self._listening = False
        self._closed = False

    def close(self) -> None:
        """Stop listening; requests that wait still look for themselves."""
        self._closed = True

    def wait(self, job_id: UUID, ended: Callable[[], bool], seconds: float) -> None:
        """Return when ``ended`` is true, ``seconds`` from now at the latest."""
        self._listen()
        until = time.monotonic() + seconds
        event = threading.Event()
        with self._lock:
            self._events.setdefault(str(job_id), set()).add(event)
        try:
            while (left := until - time.monotonic()) > 0:
                event.clear()  # before looking, so that an end in between is not missed
                if ended():
                    return
                event.wait(min(left, LOOK_SECONDS))
        finally:
            self._forget(str(job_id), event)

    def _forget(self, job_id: str, event: threading.Event) -> None:
        with self._lock:
            events = self._events[job_id]
            events.discard(event)
            if not events:
                del self._events[job_id]

    def _listen(self) -> None:
        """Start the listening thread at the first wait: after gunicorn has forked."""
        with self._lock:
            if self._listening:
                return
            self._listening = True
        threading.Thread(target=self._run, name="waiters", daemon=True).start()

    def _run(self) -> None:
        complained = False
        while not self._closed:
            try:
                for job_id in self._broker.ended_jobs(until=lambda: self._closed):
                    complained = False
                    self._wake(job_id)
            except (RedisError, OSError) as error:
                if not complained:
                    log.warning("waiters_disconnected", error=str(error))
                complained = True
                time.sleep(_RECONNECT_SECONDS)

    def _wake(self, job_id: str) -> None:
        with self._lock:
            for event in self._events.get(job_id, ()):
                event.set()
