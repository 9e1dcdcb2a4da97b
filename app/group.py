"""Calls that come together are done together: the group commit of databases, one level up.

PostgreSQL already flushes the log once for many commits; here the statements and round trips are
shared as well. While one group is being done, the calls that arrive form the next; a call that
comes alone is done at once and waits for nobody, unless many came a moment ago and its group
gathers.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import structlog

from app.errors import DatabaseUnavailable, GPTQueueError

log = structlog.get_logger(__name__)

# Longer than any statement may take (app/db.py).
PATIENCE_SECONDS = 20.0

# Jobs that end in the same step of an engine come one by one, as the interpreter wakes their
# threads; the first of them would have a transaction of its own.
_MOMENT_SECONDS = 0.002

Item = TypeVar("Item")
Answer = TypeVar("Answer")


@dataclass(slots=True, eq=False)
class _Call(Generic[Item, Answer]):
    item: Item
    woken: threading.Event = field(default_factory=threading.Event)
    # Until it is answered: a leader that is stopped half-way leaves nobody believing in success.
    answer: Answer | Exception = field(default_factory=lambda: RuntimeError("its leader stopped"))
    done: bool = False


class Group(Generic[Item, Answer]):
    """One function for many items, called by many threads (or greenlets) with one item each."""

    def __init__(
        self,
        run: Callable[[Sequence[Item]], Sequence[Answer | Exception]],
        limit: int = 64,
        weigh: Callable[[Item], int] = lambda item: 1,
        *,
        gather: bool = False,
    ) -> None:
        """``run`` gives an answer, or an error to raise, for each item of a group. The weights
        of its items add up to ``limit`` at most, unless it is one alone. With ``gather`` a group
        that follows one of several waits a moment for more, and again as long as more come.
        """
        self._run = run
        self._limit = limit
        self._gathers = gather
        self._crowded = False  # whether more are to be expected
        self._weigh = weigh
        self._lock = threading.Lock()
        self._waiting: deque[_Call[Item, Answer]] = deque()
        self._busy = False

    def do(self, item: Item) -> Answer:
        """The answer for this item; raises the error that ``run`` gave for it or raised, and
        DatabaseUnavailable when those before it do not come to an end.
        """
        call: _Call[Item, Answer] = _Call(item)
        with self._lock:
            self._waiting.append(call)
            leads, self._busy = not self._busy, True
        if not leads:
            self._wait(call)
        if not call.done:
            self._lead()
        if isinstance(call.answer, Exception):
            raise call.answer
        return call.answer

    def _wait(self, call: _Call[Item, Answer]) -> None:
        """Until the call is answered or has the lead."""
        try:
            if call.woken.wait(PATIENCE_SECONDS):
                return
        except BaseException:  # a greenlet can be killed while it waits
            self._leave(call)
            raise
        self._leave(call)
        if not call.done:
            raise DatabaseUnavailable

    def _leave(self, call: _Call[Item, Answer]) -> None:
        """Wait no longer; a lead that was just handed over goes to the next."""
        with self._lock:
            if call in self._waiting:
                self._waiting.remove(call)
                if call.woken.is_set():
                    self._pass_on()

    def _lead(self) -> None:
        """Do the group that begins with the caller's own call, the oldest; pass the lead on."""
        calls: list[_Call[Item, Answer]] = []
        try:
            self._gather()
            with self._lock:
                self._take(calls)
            self._answer(calls)
        finally:
            with self._lock:
                self._pass_on()
            for call in calls:
                call.done = True
                call.woken.set()

    def _gather(self) -> None:
        seen = 0
        while self._crowded and seen < len(self._waiting) < self._limit:
            seen = len(self._waiting)
            time.sleep(_MOMENT_SECONDS)

    def _take(self, calls: list[_Call[Item, Answer]]) -> None:
        weight = 0
        while self._waiting:
            weight += self._weigh(self._waiting[0].item)
            if calls and weight > self._limit:
                break
            calls.append(self._waiting.popleft())
        self._crowded = self._gathers and len(calls) > 1

    def _pass_on(self) -> None:
        self._busy = bool(self._waiting)
        if self._waiting:
            self._waiting[0].woken.set()

    def _answer(self, calls: list[_Call[Item, Answer]]) -> None:
        try:
            answers = self._run([call.item for call in calls])
        except Exception as error:
            if len(calls) > 1 and not isinstance(error, GPTQueueError):
                # What nobody expected, and nothing of it was committed: find out whose fault it is.
                log.warning("group_split", calls=len(calls), error=type(error).__name__)
                for call in calls:
                    self._answer([call])
                return
            answers = [error] * len(calls)
        for call, answer in zip(calls, answers, strict=True):
            call.answer = answer
