"""Batches of the native API: jobs that are submitted together, counted, and told of at the end."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from sqlalchemy import BigInteger, Uuid, case, func, select, update
from sqlalchemy.orm import Session
from uuid_utils.compat import uuid7

from app.errors import GPTQueueError, JobSetNotFound
from app.jobs.document import Document, Moment
from app.jobs.states import TERMINAL, Status
from app.jobs.submit import Draft, submit
from app.jobs.tables import Job, JobSet
from app.rows import given


class SetUrls(Document):
    """Where to read the batch and its jobs, and where to cancel them."""

    get: str
    jobs: str
    cancel: str


class SetDocument(Document):
    """A batch of jobs, and how many of them have ended how."""

    id: UUID
    status: Literal["running", "finished"]
    created: Moment
    finished: Moment | None
    total: int
    unfinished: int
    succeeded: int
    failed: int
    cancelled: int
    expired: int
    metadata: dict[str, str]
    webhook_url: str | None
    urls: SetUrls


class SetEvent(Document):
    """The body of its webhook."""

    type: str
    timestamp: Moment
    data: SetDocument


class AlreadyThere(Exception):
    """An equal earlier request made this set."""

    def __init__(self, set_id: UUID) -> None:
        self.set_id = set_id


def create(
    session: Session,
    drafts: Sequence[Draft],
    *,
    labels: Mapping[str, str],
    webhook_url: str | None,
) -> JobSet:
    """Store a set and its jobs, at least one and all of one account; all of them or none.

    Raises what refuses one of the jobs, or AlreadyThere; the transaction must then be given up.
    """
    made = JobSet(
        id=uuid7(),
        account_id=drafts[0].account_id,
        labels=dict(labels),
        webhook_url=webhook_url,
        total=len(drafts),
        unfinished=len(drafts),
    )
    session.add(made)
    session.flush()
    answers = submit(session, [replace(draft, set_id=made.id) for draft in drafts])
    for place, answer in enumerate(answers):
        if isinstance(answer, GPTQueueError):
            raise type(answer)(f"jobs.{place}: {answer.message}", **answer.details)
    first = answers[0]
    if first is not None and not isinstance(first, GPTQueueError) and first.new is None:
        before = session.scalar(select(Job.set_id).where(Job.id == first.job_id))
        if before is not None:
            raise AlreadyThere(before)
    return made


_ENDED = given(
    "ended",
    id=Uuid,
    jobs=BigInteger,
    **{status.value: BigInteger for status in sorted(TERMINAL)},
)
_LEFT = JobSet.unfinished - _ENDED.c.jobs
_COUNT = (
    update(JobSet)
    .where(JobSet.id == _ENDED.c.id)
    .values(
        unfinished=_LEFT,
        finished_at=case((_LEFT == 0, func.now())),
        **{
            status.value: getattr(JobSet, status.value) + _ENDED.c[status.value]
            for status in TERMINAL
        },
    )
    .returning(JobSet)
    .execution_options(synchronize_session=False)
)


def count(session: Session, jobs: Sequence[Job]) -> list[JobSet]:
    """Count jobs that have just ended; the sets of which these were the last."""
    ended: dict[UUID, Counter[str]] = {}
    for job in jobs:
        if job.set_id is not None:
            ended.setdefault(job.set_id, Counter())[job.status] += 1
    if not ended:
        return []
    rows = [
        {"id": set_id, "jobs": counts.total(), **{each.value: counts[each] for each in TERMINAL}}
        for set_id, counts in ended.items()
    ]
    # In order, so that those who end jobs of several sets never wait for each other in a circle.
    locked = select(JobSet.id).where(JobSet.id.in_(ended)).order_by(JobSet.id)
    session.execute(locked.with_for_update())
    counted = session.scalars(_COUNT, {"ended": rows}).all()
    return [each for each in counted if each.finished_at is not None]


def owned(session: Session, account_id: UUID, set_id: UUID) -> JobSet:
    """The account's set of that id; raises JobSetNotFound, also when it is another account's."""
    found = session.scalars(
        select(JobSet).where(JobSet.id == set_id, JobSet.account_id == account_id)
    ).one_or_none()
    if found is None:
        raise JobSetNotFound
    return found


def page(
    session: Session, account_id: UUID, *, after: UUID | None, limit: int
) -> tuple[list[JobSet], bool]:
    """The newest sets first, those before ``after``; and whether there are more."""
    query = select(JobSet).where(JobSet.account_id == account_id)
    if after is not None:
        query = query.where(JobSet.id < after)
    found = session.scalars(query.order_by(JobSet.id.desc()).limit(limit + 1)).all()
    return list(found[:limit]), len(found) > limit


def unfinished(session: Session, set_id: UUID, *, after: UUID | None, limit: int) -> list[UUID]:
    """Some of the jobs of a set that have not ended, in their order, those after ``after``."""
    query = select(Job.id).where(
        Job.set_id == set_id, Job.status.in_([Status.QUEUED, Status.RUNNING])
    )
    if after is not None:
        query = query.where(Job.id > after)
    return list(session.scalars(query.order_by(Job.id).limit(limit)))


def document(made: JobSet, *, base_url: str) -> SetDocument:
    """The set as its owner sees it."""
    url = f"{base_url}/api/v1/batches/{made.id}"
    sums: dict[str, Any] = {status.value: getattr(made, status.value) for status in TERMINAL}
    return SetDocument(
        id=made.id,
        status="running" if made.finished_at is None else "finished",
        created=made.created_at,
        finished=made.finished_at,
        total=made.total,
        unfinished=made.unfinished,
        **sums,
        metadata=made.labels,
        webhook_url=made.webhook_url,
        urls=SetUrls(
            get=url, jobs=f"{base_url}/api/v1/jobs?batch={made.id}", cancel=f"{url}/cancel"
        ),
    )


def event(made: JobSet, kind: str, *, base_url: str) -> str:
    """The body of the webhook that tells of its end."""
    finished: datetime | None = made.finished_at
    assert finished is not None
    shown = document(made, base_url=base_url)
    return SetEvent(type=kind, timestamp=finished, data=shown).model_dump_json()
