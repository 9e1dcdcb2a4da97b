"""Conversations: chats whose jobs carry the same name of their owner's.

A turn is a job, so nothing is stored twice: what was said before is in the last job that succeeded,
its messages and its answer, and a job says how many of its messages are new.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Select, String, Uuid, cast, func, select, update
from sqlalchemy.orm import Session

from app.errors import ConversationNotFound, JobStillRuns
from app.jobs.asked import delete_texts
from app.jobs.states import TERMINAL, Status
from app.jobs.tables import Job, Output, Prompt

NEW = "new_messages"  # in a job's parameters: so many of its last messages are its own

_DELETED_AT_ONCE = 20

Messages = list[dict[str, str]]


@dataclass(frozen=True, slots=True)
class Conversation:
    """One of an account's."""

    name: str
    jobs: int
    created: datetime
    last_active: datetime


@dataclass(frozen=True, slots=True)
class Turn:
    """What was said and answered in one job; ``answer`` None as long as there is none."""

    job_id: UUID
    status: str
    created: datetime
    messages: Messages
    answer: str | None


def history(session: Session, account_id: UUID, name: str) -> Messages:
    """All that was said up to the last answer."""
    found = session.execute(
        select(Prompt.messages, Output.text)
        .join(Job, Job.id == Prompt.job_id)
        .join(Output, Output.job_id == Job.id)
        .where(*_of(account_id, name), Job.status == Status.SUCCEEDED)
        .order_by(Job.id.desc())
        .limit(1)
    ).one_or_none()
    if found is None:
        return []
    return [*(found.messages or []), {"role": "assistant", "content": found.text}]


def page(
    session: Session, account_id: UUID, *, after: str | None, limit: int
) -> tuple[list[Conversation], bool]:
    """The newest conversations first, those begun before ``after``; whether there are more."""
    # PostgreSQL before 18 has no min() of a uuid; as text they are in the same order, that of time.
    first = cast(func.min(cast(Job.id, String)), Uuid)
    query = (
        select(
            Job.conversation,
            func.count().label("jobs"),
            func.min(Job.created_at).label("created"),
            func.max(Job.created_at).label("last_active"),
        )
        .where(Job.account_id == account_id, Job.conversation.is_not(None))
        .group_by(Job.conversation)
        .order_by(first.desc())
        .limit(limit + 1)
    )
    if after is not None:
        query = query.having(first < _first_job(account_id, after).scalar_subquery())
    rows = session.execute(query).all()
    found = [
        Conversation(row.conversation or "", row.jobs, row.created, row.last_active)
        for row in rows[:limit]
    ]
    return found, len(rows) > limit


def turns(
    session: Session, account_id: UUID, name: str, *, after: UUID | None, limit: int
) -> tuple[list[Turn], bool]:
    """The turns in order, after that of a job; whether there are more.

    Raises ConversationNotFound.
    """
    query = (
        select(Job, Prompt.messages, Output.text)
        .join(Prompt, Prompt.job_id == Job.id)
        .outerjoin(Output, Output.job_id == Job.id)
        .where(*_of(account_id, name))
        .order_by(Job.id)
        .limit(limit + 1)
    )
    rows = session.execute(query if after is None else query.where(Job.id > after)).all()
    if not rows and session.scalar(_first_job(account_id, name)) is None:
        raise ConversationNotFound
    found = [_turn(job, messages or [], text) for job, messages, text in rows[:limit]]
    return found, len(rows) > limit


def check_ended(session: Session, account_id: UUID, name: str) -> None:
    """Raise ConversationNotFound where there is none, JobStillRuns where one of its jobs does."""
    if session.scalar(_first_job(account_id, name)) is None:
        raise ConversationNotFound
    running = _first_job(account_id, name).where(Job.finished_at.is_(None))
    if session.scalar(running) is not None:
        raise JobStillRuns


def delete_some(session: Session, account_id: UUID, name: str) -> bool:
    """Forget the texts of some of its turns, which are turns of it no more; whether there are more.

    Raises JobStillRuns where one has not ended.
    """
    jobs = session.scalars(
        select(Job).where(*_of(account_id, name)).order_by(Job.id).limit(_DELETED_AT_ONCE)
    ).all()
    if any(job.status not in TERMINAL for job in jobs):
        raise JobStillRuns
    ids = [job.id for job in jobs]
    for job_id in ids:
        delete_texts(session, account_id, job_id)
    session.execute(
        update(Job)
        .where(Job.id.in_(ids))
        .values(conversation=None)
        .execution_options(synchronize_session=False)
    )
    return len(ids) == _DELETED_AT_ONCE


def _of(account_id: UUID, name: str) -> Sequence[Any]:
    return Job.account_id == account_id, Job.conversation == name


def _first_job(account_id: UUID, name: str) -> Select[UUID]:
    return select(Job.id).where(*_of(account_id, name)).order_by(Job.id).limit(1)


def _turn(job: Job, messages: Messages, text: str | None) -> Turn:
    new = messages[-job.parameters.get(NEW, len(messages)) :]
    return Turn(job.id, job.status, job.created_at, new, text)
