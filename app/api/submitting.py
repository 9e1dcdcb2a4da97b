"""Submits that come together share one transaction and one trip to the broker."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from app.config import Settings
from app.db import Database
from app.errors import GPTQueueError
from app.group import Group
from app.jobs import waiting
from app.jobs.document import JobDocument, WaitingDocument, render
from app.jobs.submit import Draft, Submitted, submit
from app.jobs.waiting import COUNTED_AT_MOST, Place
from app.queues import Broker


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
        self._group: Group[Draft, Accepted] = Group(self._submit)

    def submit(self, draft: Draft) -> Accepted:
        """Store the job, hold its price, tell its workers.

        Raises InsufficientCredit, IdempotencyKeyReused or DatabaseUnavailable.
        """
        return self._group.do(draft)

    def _submit(self, drafts: Sequence[Draft]) -> list[Accepted | Exception]:
        with self._database.transaction() as session:
            places = {(draft.model, draft.priority) for draft in drafts}
            queue = waiting.at_the_end(session, places, self._settings.lease_seconds)
            answers = submit(session, drafts)
        # From here on the jobs are accepted, whatever happens.
        accepted = [
            (draft, answer)
            for draft, answer in zip(drafts, answers, strict=True)
            if isinstance(answer, Submitted) and answer.new
        ]
        self._broker.enqueue_jobs([(draft.model, draft.job_id) for draft, _ in accepted])
        return self._answers(drafts, answers, queue)

    def _answers(
        self,
        drafts: Sequence[Draft],
        answers: Sequence[Submitted | GPTQueueError],
        queue: dict[Place, WaitingDocument],
    ) -> list[Accepted | Exception]:
        joined: Counter[Place] = Counter()
        given: list[Accepted | Exception] = []
        for draft, answer in zip(drafts, answers, strict=True):
            if isinstance(answer, GPTQueueError):
                given.append(answer)
                continue
            place = (draft.model, draft.priority)
            document = self._document(answer, queue[place], joined[place])
            given.append(Accepted(answer.job_id, document))
            joined[place] += answer.new is not None
        return given

    def _document(
        self, submitted: Submitted, queue: WaitingDocument, joined: int
    ) -> JobDocument | None:
        if submitted.new is None:
            return None
        job, charge = submitted.new
        position = min(queue.position + joined, COUNTED_AT_MOST)
        return render(
            job,
            charge,
            base_url=self._settings.public_url,
            attempts=[],
            waiting=WaitingDocument(reason=queue.reason, position=position),
        )
