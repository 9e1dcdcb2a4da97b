"""Submits that come together share one transaction and one trip to the broker."""

import threading
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from uuid import UUID

from sqlalchemy.orm import Session

from app.config import Settings
from app.db import Database
from app.errors import GPTQueueError
from app.group import Group
from app.jobs import waiting
from app.jobs.document import JobDocument, WaitingDocument, render
from app.jobs.submit import Draft, Submitted, submit
from app.jobs.waiting import COUNTED_AT_MOST, Place
from app.queues import Broker

LOOK_SECONDS = 0.2
STAY_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Accepted:
    """A draft's job: with its document when it is new, by its id when it was there before."""

    job_id: UUID
    document: JobDocument | None


class Submitter:
    """The one way of a draft into the database, and then into its queue.

    An account whose balance somebody else has locked gets a lane of its own for a while, so that
    the others need not wait with it.
    """

    def __init__(self, settings: Settings, database: Database, broker: Broker) -> None:
        self._lane = partial(Lane, settings, database, broker, Queue(settings.lease_seconds))
        self._free = self._lane(wait=False)
        self._held_up: dict[UUID, Lane] = {}
        self._lock = threading.Lock()

    def submit(self, draft: Draft) -> Accepted:
        """Store the job, hold its price, tell its workers.

        Raises InsufficientCredit, IdempotencyKeyReused or DatabaseUnavailable.
        """
        accepted = None
        if not self._is_held_up(draft.account_id):
            accepted = self._free.group.do(draft)
        if accepted is None:
            with self._waiting(draft.account_id) as lane:
                accepted = lane.group.do(draft)
        assert accepted is not None
        return accepted

    def _is_held_up(self, account_id: UUID) -> bool:
        lane = self._held_up.get(account_id)
        return lane is not None and lane.lives()

    @contextmanager
    def _waiting(self, account_id: UUID) -> Iterator["Lane"]:
        with self._lock:
            for other in [each for each, lane in self._held_up.items() if not lane.lives()]:
                del self._held_up[other]
            lane = self._held_up.setdefault(account_id, self._lane(wait=True))
            lane.callers += 1
        try:
            yield lane
        finally:
            with self._lock:
                lane.callers -= 1
                lane.left_at = time.monotonic()


class Lane:
    """Submits that are done together, one group after the other."""

    def __init__(
        self, settings: Settings, database: Database, broker: Broker, queue: "Queue", *, wait: bool
    ) -> None:
        """Where it does not ``wait`` for balances, a draft whose account's is locked gets None."""
        self._settings = settings
        self._database = database
        self._broker = broker
        self._wait = wait
        self._queue = queue
        self.group: Group[Draft, Accepted | None] = Group(self._submit, weigh=_weight)
        self.callers = 0
        self.left_at = 0.0

    def lives(self) -> bool:
        """Whether anyone is in it, or was a moment ago: who waits for balances often does again."""
        return bool(self.callers) or time.monotonic() < self.left_at + STAY_SECONDS

    def _submit(self, drafts: Sequence[Draft]) -> list[Accepted | Exception | None]:
        with self._database.transaction() as session:
            self._queue.look(session, {_place(draft) for draft in drafts})
            answers = submit(session, drafts, wait=self._wait)
        # From here on the jobs are accepted, whatever happens.
        pairs = list(zip(drafts, answers, strict=True))
        self._broker.enqueue_jobs(
            [(draft.model, draft.job_id) for draft, answer in pairs if _is_new(answer)]
        )
        return [self._accepted(draft, answer) for draft, answer in pairs]

    def _accepted(
        self, draft: Draft, answer: Submitted | GPTQueueError | None
    ) -> Accepted | Exception | None:
        if answer is None or isinstance(answer, GPTQueueError):
            return answer
        if answer.new is None:
            return Accepted(answer.job_id, None)
        job, charge = answer.new
        document = render(
            job,
            charge,
            base_url=self._settings.public_url,
            attempts=[],
            waiting=self._queue.join(_place(draft)),
        )
        return Accepted(answer.job_id, document)


class Queue:
    """What new jobs wait for; looked up now and then, and counted on in between."""

    def __init__(self, fresh_seconds: float) -> None:
        self._fresh_seconds = fresh_seconds
        self._ends: dict[Place, End] = {}

    def look(self, session: Session, places: Collection[Place]) -> None:
        """Know the ends of these queues, as of at most LOOK_SECONDS ago."""
        now = time.monotonic()
        old = [
            place
            for place in places
            if place not in self._ends or now > self._ends[place].seen_at + LOOK_SECONDS
        ]
        if old:
            found = waiting.at_the_end(session, old, self._fresh_seconds)
            self._ends |= {place: End(now, seen) for place, seen in found.items()}

    def join(self, place: Place) -> WaitingDocument:
        """What one more job waits for."""
        end = self._ends[place]
        position = min(end.seen.position + end.joined, COUNTED_AT_MOST)
        end.joined += 1
        # Who joins within a moment waits about as long as the first of them.
        return end.seen.model_copy(update={"position": position})


@dataclass(slots=True)
class End:
    """The end of a queue as it was seen at a moment, and how many have joined since."""

    seen_at: float
    seen: WaitingDocument
    joined: int = 0


def _weight(draft: Draft) -> int:
    """Long prompts make small groups, so that nobody waits for a transaction of many megabytes."""
    texts = [draft.prompt or "", *(each["content"] for each in draft.messages or ())]
    return 1 + sum(map(len, texts)) // 16_000


def _place(draft: Draft) -> Place:
    return Place(draft.model, draft.version, draft.priority)


def _is_new(answer: Submitted | GPTQueueError | None) -> bool:
    return isinstance(answer, Submitted) and answer.new is not None
