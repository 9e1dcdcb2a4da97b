"""Requests that wait for a job's end, woken by the broker's announcements.

One thread per process listens; a request that waits sleeps on an event of its own. An
announcement can get lost (the broker is only a hint), so another thread looks into the database
now and then, ``LOOK_SECONDS`` apart, in one statement for all that wait.
"""

import threading
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from uuid import UUID

import structlog
from redis.exceptions import RedisError

from app.errors import DatabaseUnavailable
from app.group import Group
from app.queues import Broker

log = structlog.get_logger(__name__)

LOOK_SECONDS = 2.0
_RECONNECT_SECONDS = 1.0


class Waiters:
    """Who waits for which job, in this process."""

    def __init__(
        self, broker: Broker, look: Callable[[Collection[UUID]], Collection[UUID]]
    ) -> None:
        """``look`` says which of some jobs have ended; it may raise DatabaseUnavailable."""
        self._broker = broker
        self._look = look
        self._looks: Group[UUID, bool] = Group(self._have_ended)
        self._events: dict[UUID, set[threading.Event]] = {}
        self._lock = threading.Lock()
        self._started = False
        self._closed = False

    def close(self) -> None:
        """Stop listening and looking."""
        self._closed = True

    def wait(self, job_id: UUID, seconds: float) -> None:
        """Return when the job has ended, ``seconds`` from now at the latest."""
        self._start()
        event = threading.Event()
        with self._lock:
            self._events.setdefault(job_id, set()).add(event)
        try:
            # After the event is known, so that an end in between is not missed.
            if not self._looks.do(job_id):
                event.wait(seconds)
        finally:
            self._forget(job_id, event)

    def _have_ended(self, job_ids: Sequence[UUID]) -> list[bool]:
        ended = self._look(set(job_ids))
        return [job_id in ended for job_id in job_ids]

    def _forget(self, job_id: UUID, event: threading.Event) -> None:
        with self._lock:
            events = self._events[job_id]
            events.discard(event)
            if not events:
                del self._events[job_id]

    def _start(self) -> None:
        """Start the threads at the first wait: after gunicorn has forked."""
        with self._lock:
            if self._started:
                return
            self._started = True
        for run in (self._listen, self._look_now_and_then):
            threading.Thread(target=run, name="waiters", daemon=True).start()

    def _listen(self) -> None:
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

    def _look_now_and_then(self) -> None:
        while not self._closed:
            time.sleep(LOOK_SECONDS)
            with self._lock:
                waiting = list(self._events)
            if waiting:
                with suppress(DatabaseUnavailable):
                    for job_id in self._look(waiting):
                        self._wake(job_id)

    def _wake(self, job_id: UUID) -> None:
        with self._lock:
            for event in self._events.get(job_id, ()):
                event.set()
