"""What every end of a job does in its one transaction: status, result, money, webhook record."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.billing import ledger, usage
from app.billing.tables import Charge
from app.billing.usage import Used
from app.jobs import sets, transition
from app.jobs.document import EventDocument, JobDocument, render
from app.jobs.tables import Attempt, Job, JobSet, Output
from app.jobs.transition import Done, End
from app.rows import store
from app.webhooks import outbox, subscriptions
from app.webhooks.events import EventType, job_event
from app.webhooks.subscriptions import Follower

# Standard Webhooks asks for less than 20 kB; a longer answer is left to a GET.
_MAX_BODY_BYTES = 20_000


class Receiver(NamedTuple):
    """A URL that is told; of a subscription unless it is the job's own."""

    url: str
    subscription_id: UUID | None = None


@dataclass(frozen=True, slots=True)
class Ended:
    """A job that reached its terminal state, and one of the webhooks to send, if there are any."""

    job_id: UUID
    delivery_id: UUID | None


def end(session: Session, ends: Sequence[End], *, base_url: str) -> list[Ended | None]:
    """End jobs: store what was generated, charge or release, and record the events.

    An answer for each, in their order: None where the job is not where the caller believed, and
    then nothing is stored, charged or sent.
    """
    done = transition.end(session, ends)
    outputs = [_output(each) for each in done if each.how.text is not None]
    store(session, (Output, outputs))
    charges = ledger.close(session, {each.job.id: each.how.usage for each in done})
    usage.add(session, [_used(each, charges[each.job.id]) for each in done])
    deliveries = _record(session, _addressed(session, done), charges, base_url)
    deliveries = {**_record_sets(session, done, base_url), **deliveries}
    ended = {id(each.how): Ended(each.job.id, deliveries.get(each.job.id)) for each in done}
    return [ended.get(id(each)) for each in ends]


Addressed = list[tuple[Done, list[Receiver]]]


def _addressed(session: Session, done: Sequence[Done]) -> Addressed:
    """Those that somebody is to be told of, and whom."""
    accounts = {each.job.account_id for each in done if each.followed}
    followers = subscriptions.followers(session, accounts)
    found = [(each, _receivers(each.job, job_event(each.job.status), followers)) for each in done]
    return [(each, receivers) for each, receivers in found if receivers]


def _receivers(
    told_of: Job | JobSet, kind: EventType, followers: Sequence[Follower]
) -> list[Receiver]:
    """Its own URL, and the endpoints of its account that want to know. Where both are the same URL
    it is told twice, since they are signed differently.
    """
    own = [Receiver(told_of.webhook_url)] if told_of.webhook_url is not None else []
    return own + [
        Receiver(follower.url, follower.id)
        for follower in followers
        if follower.account_id == told_of.account_id and follower.wants(kind)
    ]


def _record(
    session: Session, addressed: Addressed, charges: dict[UUID, Charge], base_url: str
) -> dict[UUID, UUID]:
    attempts = _attempts(session, [each for each, _ in addressed])
    events = []
    for each, receivers in addressed:
        job = each.job
        body = _body(each, charges[job.id], base_url, attempts[job.id])
        events += [
            outbox.Event(
                account_id=job.account_id,
                job_id=job.id,
                type=job_event(job.status),
                url=receiver.url,
                body=body,
                subscription_id=receiver.subscription_id,
            )
            for receiver in receivers
        ]
    ids = outbox.record(session, events)
    return {event.job_id: each for event, each in zip(events, ids, strict=True) if event.job_id}


def _record_sets(session: Session, done: Sequence[Done], base_url: str) -> dict[UUID, UUID]:
    """Count the ends in the batches of which these are jobs, and tell of those that are over; the
    deliveries, by one of their jobs.
    """
    over = sets.count(session, [each.job for each in done])
    if not over:
        return {}
    kind = EventType.BATCH_FINISHED
    followers = subscriptions.followers(session, {each.account_id for each in over})
    found: dict[UUID, UUID] = {}
    for each in over:
        body = sets.event(each, kind, base_url=base_url)
        ids = outbox.record(
            session,
            [
                outbox.Event(
                    account_id=each.account_id,
                    type=kind,
                    url=receiver.url,
                    body=body,
                    subscription_id=receiver.subscription_id,
                )
                for receiver in _receivers(each, kind, followers)
            ],
        )
        last = next(one.job.id for one in done if one.job.set_id == each.id)
        if ids:
            found[last] = ids[0]
    return found


def _used(done: Done, charge: Charge) -> Used:
    return Used(model=done.job.model, status=done.job.status, usage=done.how.usage, charge=charge)


def _output(done: Done) -> dict[str, Any]:
    return {
        "job_id": done.job.id,
        "account_id": done.job.account_id,
        "text": done.how.text,
        "logprobs": done.how.logprobs,
    }


def _attempts(session: Session, done: Collection[Done]) -> dict[UUID, list[Attempt]]:
    """All attempts of each job: the one that ended it, which is at hand, and those before."""
    attempts = {each.job.id: [each.attempt] if each.attempt else [] for each in done}
    more = [each.job.id for each in done if each.job.attempt > len(attempts[each.job.id])]
    if more:
        attempts |= {job_id: [] for job_id in more}
        query = select(Attempt).where(Attempt.job_id.in_(more))
        for attempt in session.scalars(query.order_by(Attempt.number)):
            attempts[attempt.job_id].append(attempt)
    return attempts


def _body(done: Done, charge: Charge, base_url: str, attempts: list[Attempt]) -> str:
    job, text = done.job, done.how.text
    # Without the log-probabilities, which no body of that size could hold.
    output = None if text is None else Output(job_id=job.id, text=text)
    for shown in (output, None):
        body = _event(render(job, charge, base_url=base_url, attempts=attempts, output=shown))
        if len(body.encode()) < _MAX_BODY_BYTES:
            break
    return body


def _event(document: JobDocument) -> str:
    assert document.finished is not None
    event = EventDocument(
        type=job_event(document.status), timestamp=document.finished, data=document
    )
    return event.model_dump_json()
