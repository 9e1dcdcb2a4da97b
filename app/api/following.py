"""A job from now to its end, as a sequence of events: for whoever streams it, in whatever form.

The text comes from the workers while it grows, and from PostgreSQL once the job has ended; whatever
was lost on the way, the texts of an attempt, joined, are its text.
"""

import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from threading import Event as Bell
from uuid import UUID

from app.api.services import Services
from app.api.watchers import Watched
from app.errors import DatabaseUnavailable
from app.jobs.document import JobDocument, WaitingDocument
from app.jobs.queries import Standing
from app.jobs.states import TERMINAL, Status

TICK_SECONDS = 1.0
_LOOK_AGAIN_SECONDS = 10.0  # how old what a queued job waits for may get


@dataclass(frozen=True, slots=True)
class Position:
    """How far somebody has read: so many characters of what this attempt wrote."""

    attempt: int = 0
    offset: int = 0


@dataclass(frozen=True, slots=True)
class Stands:
    """The job waits, or runs."""

    standing: Standing
    waiting: WaitingDocument | None


@dataclass(frozen=True, slots=True)
class Text:
    """Text of an attempt, from ``offset`` on; a new attempt begins at 0."""

    attempt: int
    offset: int
    text: str

    @property
    def position(self) -> Position:
        """Where it ends."""
        return Position(self.attempt, self.offset + len(self.text))


@dataclass(frozen=True, slots=True)
class Ended:
    """The whole job, which has ended."""

    document: JobDocument


@dataclass(frozen=True, slots=True)
class Tick:
    """Nothing happened for a second: a moment to see whether anybody still reads."""


Event = Stands | Text | Ended | Tick


@dataclass(slots=True)
class Following:
    """One reader of one job."""

    services: Services
    account_id: UUID
    document: JobDocument
    position: Position = field(default_factory=Position)

    def events(self) -> Generator[Event]:
        """What happens, from ``position`` on, up to and with the end."""
        if self.document.status not in TERMINAL:
            with self.services.watchers.watching(self.document.id, text=True) as (watched, bell):
                yield from self._read_again()  # an end before we watched was announced to nobody
                yield from self._until_the_end(watched, bell)
        yield from self._rest()
        yield Ended(self.document)

    def _until_the_end(self, watched: Watched, bell: Bell) -> Iterator[Event]:
        shown: Stands | None = None
        looked_at = time.monotonic()
        while self.document.status not in TERMINAL:
            now = self._stands(watched)
            if now != shown:
                shown = now
                yield now
            yield from self._news(watched)
            if not bell.wait(TICK_SECONDS):
                yield Tick()
            bell.clear()
            if watched.ended or self._is_old(watched, shown, looked_at):
                looked_at = time.monotonic()
                yield from self._read_again()

    def _stands(self, watched: Watched) -> Stands:
        known = Standing(Status(self.document.status), _attempt(self.document))
        # Of the two, what was seen later; an announcement is quicker than a look.
        standing = max(known, watched.standing or known, key=lambda each: each.progress)
        queued = standing.status is Status.QUEUED
        return Stands(standing, self.document.waiting if queued else None)

    def _is_old(self, watched: Watched, shown: Stands, looked_at: float) -> bool:
        """Whether what is known of why the job waits may not be so any more."""
        standing = watched.standing or shown.standing
        if standing.status is not Status.QUEUED:
            return False
        return (
            self.document.status != "queued" or time.monotonic() > looked_at + _LOOK_AGAIN_SECONDS
        )

    def _news(self, watched: Watched) -> Iterator[Text]:
        attempt, text = watched.grown
        if attempt < self.position.attempt:
            return
        yield from self._show(attempt, text)

    def _rest(self) -> Iterator[Text]:
        output = self.document.output
        if output is not None and output.text is not None:
            yield from self._show(_attempt(self.document), output.text)

    def _show(self, attempt: int, text: str) -> Iterator[Text]:
        offset = self.position.offset if attempt == self.position.attempt else 0
        if len(text) > offset:
            fresh = Text(attempt, offset, text[offset:])
            self.position = fresh.position
            yield fresh

    def _read_again(self) -> Iterator[Tick]:
        """Read the job anew; as long as the database is away, the reader waits."""
        while True:
            try:
                self.document = self.services.reader.read(self.account_id, self.document.id)
                return
            except DatabaseUnavailable:
                time.sleep(TICK_SECONDS)
                yield Tick()


def _attempt(document: JobDocument) -> int:
    return document.attempts[-1].number if document.attempts else 0
