"""Requests that wait for a job's end or read its text as it grows.

One thread per process hears of ends and of text; a request sleeps on an event of its own. What the
broker says can get lost, so another thread looks into the database now and then,
``LOOK_SECONDS`` apart, in one statement for all that are watched.
"""

import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from uuid import UUID, uuid4

import structlog

from app import streams
from app.errors import DatabaseUnavailable
from app.group import Group
from app.hearing import Hearing
from app.jobs.queries import Standing
from app.jobs.states import TERMINAL, Status
from app.queues import Broker
from app.streams import Follow, Piece

log = structlog.get_logger(__name__)

LOOK_SECONDS = 2.0
_ASK_SECONDS = 1.0

Look = Callable[[Collection[UUID]], Mapping[UUID, Standing]]


@dataclass(slots=True, eq=False)
class Watched:
    """A job that is watched in this process, as far as it is known.

    ``grown`` is an attempt and its text so far; only jobs that somebody reads along have any.
    """

    job_id: UUID
    standing: Standing | None = None
    ended: bool = False
    grown: tuple[int, str] = (0, "")
    readers: int = 0
    events: set[threading.Event] = field(default_factory=set)

    def see(self, standing: Standing) -> None:
        """What the database says; wakes who watches if that is new."""
        if standing.status in TERMINAL:
            self.end()
        elif self.standing is None or standing.progress > self.standing.progress:
            self.standing = standing
            self.wake()

    def end(self) -> None:
        """It has ended, however: who wants to know reads the job."""
        self.ended = True
        self.wake()

    def add(self, piece: Piece) -> bool:
        """Take a piece; False if there is a gap before it."""
        attempt, text = self.grown
        if piece.attempt < attempt:
            return True
        if piece.attempt > attempt:
            text = ""
            self.see(Standing(Status.RUNNING, piece.attempt))
        if piece.offset > len(text):
            return False
        # As one value, since whoever reads it has no lock.
        self.grown = piece.attempt, text + piece.text[len(text) - piece.offset :]
        self.wake()
        return True

    def wake(self) -> None:
        """Let everybody look who watches it."""
        for event in self.events:
            event.set()


class Watchers:
    """Who watches which job, in this process."""

    def __init__(self, broker: Broker, look: Look) -> None:
        """``look`` says how some jobs stand; it may raise DatabaseUnavailable."""
        self._broker = broker
        self._look = look
        self._looks: Group[UUID, Standing | None] = Group(self._look_at)
        self._watched: dict[UUID, Watched] = {}
        self._lock = threading.Lock()
        self._started = False
        self._closed = False
        self._channel = f"gptqueue.reader.{uuid4().hex}"
        self._hearing = Hearing(
            broker, [streams.ENDED, self._channel], take=self._hear, begin=self._follow_all
        )

    def close(self) -> None:
        """Stop listening and looking."""
        self._closed = True
        self._hearing.close()

    def wait(
        self, job_id: UUID, seconds: float, *, unless: Callable[[], bool] = lambda: False
    ) -> None:
        """Return when the job has ended, ``seconds`` from now at the latest; or when ``unless``,
        which is asked every second, says that nobody waits any more.
        """
        give_up = time.monotonic() + seconds
        with self.watching(job_id) as (watched, event):
            # After the event is known, so that an end in between is not missed.
            standing = self._looks.do(job_id)
            if standing is None or standing.status in TERMINAL:
                return
            while not watched.ended and not unless():
                left = give_up - time.monotonic()
                if left <= 0:
                    return
                event.wait(min(left, _ASK_SECONDS))
                event.clear()

    @contextmanager
    def watching(
        self, job_id: UUID, *, text: bool = False
    ) -> Iterator[tuple[Watched, threading.Event]]:
        """What is known of a job, and an event that is set when that changes; with its text from
        the workers if ``text`` is wanted.
        """
        self._start()
        event = threading.Event()
        with self._lock:
            watched = self._watched.setdefault(job_id, Watched(job_id))
            watched.events.add(event)
            watched.readers += text
            follows = text and watched.readers == 1
        try:
            if follows:
                self._follow([job_id], whole=True)
            yield watched, event
        finally:
            with self._lock:
                watched.events.discard(event)
                watched.readers -= text
                if not watched.events:
                    del self._watched[job_id]

    def _look_at(self, job_ids: Sequence[UUID]) -> list[Standing | None]:
        found = self._look(set(job_ids))
        return [found.get(job_id) for job_id in job_ids]

    def _start(self) -> None:
        """Start the threads at the first wait: after gunicorn has forked."""
        with self._lock:
            if self._started:
                return
            self._started = True
        self._hearing.start()
        threading.Thread(target=self._look_now_and_then, name="watchers", daemon=True).start()

    def _follow(self, job_ids: Sequence[UUID], *, whole: bool) -> None:
        follow = Follow(self._channel, job_ids, whole)
        self._broker.publish([(streams.FOLLOWED, streams.write_follow(follow))])

    def _follow_all(self, *, whole: bool = True) -> None:
        with self._lock:
            read = [each.job_id for each in self._watched.values() if each.readers]
        if read:
            self._follow(read, whole=whole)

    def _hear(self, channel: str, message: bytes) -> None:
        if channel == streams.ENDED:
            self._hear_end(UUID(message.decode()))
        else:
            self._hear_pieces(streams.read_pieces(message))

    def _hear_end(self, job_id: UUID) -> None:
        with self._lock:
            watched = self._watched.get(job_id)
            if watched is not None:
                watched.end()

    def _hear_pieces(self, pieces: Sequence[Piece]) -> None:
        gaps = []
        with self._lock:
            for piece in pieces:
                watched = self._watched.get(piece.job_id)
                if watched is not None and not watched.add(piece):
                    gaps.append(piece.job_id)
        if gaps:
            self._follow(gaps, whole=True)

    def _look_now_and_then(self) -> None:
        followed_at = time.monotonic()
        while not self._closed:
            time.sleep(LOOK_SECONDS)
            if time.monotonic() >= followed_at + streams.REFRESH_SECONDS:
                followed_at = time.monotonic()
                self._follow_all(whole=False)
            try:
                self._look_at_all()
            except DatabaseUnavailable:
                continue
            except Exception:  # whatever it is: who stops looking never sees an end
                log.exception("watchers_failed")

    def _look_at_all(self) -> None:
        with self._lock:
            watched = [each.job_id for each in self._watched.values() if not each.ended]
        found = self._look(watched) if watched else {}
        with self._lock:
            for job_id, standing in found.items():
                if job_id in self._watched:
                    self._watched[job_id].see(standing)
