"""What a contestant is asked, and when it answered."""

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Protocol

PATIENCE_SECONDS = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """Prompts to continue greedily, each by exactly ``tokens`` tokens.

    ``arrivals`` are the seconds after the start at which they come, rising; one that comes while
    ``in_flight`` others are under way waits for the end of one of them. ``stream`` asks for the
    text as it grows, where a contestant can do that.
    """

    prompts: list[str]
    tokens: int
    arrivals: list[float]
    in_flight: int
    stream: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One request, in seconds after the start; ``first`` is its first token's, None if unknown."""

    sent: float
    ended: float
    tokens: int
    first: float | None = None


class Contestant(Protocol):
    """Something that decodes, in the process that asks it."""

    def ask(self, work: Work) -> list[Answer]:
        """Do all of it, then say how it went, in the order of the prompts."""

    def close(self) -> None:
        """Stop."""


class Failed(Exception):
    """A contestant cannot do its work; the message says why, in one sentence."""


class Flight:
    """The requests of one work, for contestants that take them one by one."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._room = threading.Semaphore(work.in_flight)
        self._changed = threading.Condition()
        self._sent: dict[int, float] = {}
        self._first: dict[int, float] = {}
        self._answers: dict[int, Answer] = {}
        self._error: BaseException | None = None
        self._started = time.monotonic()

    def departures(self) -> Iterator[tuple[int, str]]:
        """Number and prompt of each request, at the moment at which it is to be sent."""
        for number, (prompt, arrival) in enumerate(
            zip(self._work.prompts, self._work.arrivals, strict=True)
        ):
            time.sleep(max(0.0, arrival - self._now()))
            if not self._room.acquire(timeout=PATIENCE_SECONDS):
                raise Failed(f"Nothing came for {PATIENCE_SECONDS} seconds.")
            self._sent[number] = self._now()
            yield number, prompt

    def began(self, number: int) -> None:
        """A request has its first token now; the first call counts."""
        self._first.setdefault(number, self._now())

    def ended(self, number: int, tokens: int) -> None:
        """A request has its last token now."""
        answer = Answer(sent=self._sent[number], ended=self._now(), tokens=tokens)
        with self._changed:
            self._answers[number] = replace(answer, first=self._first.get(number))
            self._changed.notify()
        self._room.release()

    def failed(self, error: BaseException) -> None:
        """A request came to nothing, and so does the work."""
        with self._changed:
            self._error = error
            self._changed.notify()
        self._room.release()

    def land(self) -> list[Answer]:
        """The answers, when all are there; raises Failed."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._error or len(self._answers) == len(self._work.prompts),
                PATIENCE_SECONDS,
            )
            if self._error:
                raise Failed(str(self._error)) from self._error
            if len(self._answers) < len(self._work.prompts):
                raise Failed(f"Not all answers came within {PATIENCE_SECONDS} seconds.")
            return [self._answers[number] for number in sorted(self._answers)]

    def _now(self) -> float:
        return time.monotonic() - self._started


def rate(answers: list[Answer]) -> float:
    """Tokens per second, from the first request to the last end."""
    started = min(answer.sent for answer in answers)
    seconds = max(answer.ended for answer in answers) - started
    return sum(answer.tokens for answer in answers) / seconds


def first_tokens(answers: list[Answer]) -> list[float]:
    """Milliseconds to the first token of each request; empty where a contestant does not tell."""
    return [(each.first - each.sent) * 1000 for each in answers if each.first is not None]
