"""Submits that come together share one transaction and one trip to the broker."""

import time
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
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


@dataclass(frozen=True, slots=True)
class Accepted:
    """A draft's job: with its document when it is new, by its id when it was there before."""

    job_id: UUID
    document: JobDocument | None


class Submitter:
    """The one way of a draft into the database, and then into its queue."""

    def __init__(self, settings: Settings, database: Database, broker: Broker) -> None:
        self._settings = settings
        self._database = database
        self._broker = broker
        self._queue = Queue(settings.lease_seconds)
        self._group: Group[Draft, Accepted] = Group(self._submit, weigh=_weight)

    def submit(self, draft: Draft) -> Accepted:
        """Store the job, hold its price, tell its workers.

        Raises InsufficientCredit, IdempotencyKeyReused or DatabaseUnavailable.
        """
        return self._group.do(draft)

    def _submit(self, drafts: Sequence[Draft]) -> list[Accepted | Exception]:
        with self._database.transaction() as session:
            self._queue.look(session, {_place(draft) for draft in drafts})
            answers = submit(session, drafts)
        # From here on the jobs are accepted, whatever happens.
        pairs = list(zip(drafts, answers, strict=True))
        self._broker.enqueue_jobs(
            [(draft.model, draft.job_id) for draft, answer in pairs if _is_new(answer)]
        )
        return [self._accepted(draft, answer) for draft, answer in pairs]

    def _accepted(self, draft: Draft, answer: Submitted | GPTQueueError) -> Accepted | Exception:
        if isinstance(answer, GPTQueueError):
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
        self._looked = 0.0
        self._ends: dict[Place, WaitingDocument] = {}
        self._joined: Counter[Place] = Counter()

    def look(self, session: Session, places: Collection[Place]) -> None:
        """Know the ends of these queues, as of at most LOOK_SECONDS ago."""
        now = time.monotonic()
        if now - self._looked < LOOK_SECONDS and self._ends.keys() >= set(places):
            return
        self._ends = waiting.at_the_end(session, places, self._fresh_seconds)
        self._joined.clear()
        self._looked = now

    def join(self, place: Place) -> WaitingDocument:
        """What one more job waits for."""
        end = self._ends[place]
        position = min(end.position + self._joined[place], COUNTED_AT_MOST)
        self._joined[place] += 1
        return WaitingDocument(reason=end.reason, position=position)


def _weight(draft: Draft) -> int:
    """Long prompts make small groups, so that nobody waits for a transaction of many megabytes."""
    texts = [draft.prompt or "", *(each["content"] for each in draft.messages or ())]
    return 1 + sum(map(len, texts)) // 16_000


def _place(draft: Draft) -> Place:
    return draft.model, draft.priority


def _is_new(answer: Submitted | GPTQueueError) -> bool:
    return isinstance(answer, Submitted) and answer.new is not None
