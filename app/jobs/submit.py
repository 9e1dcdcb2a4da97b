"""-> queued: the job, its prompt and its hold, in one transaction."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session
from uuid_utils.compat import uuid7

from app.billing import ledger
from app.billing.prices import Price, Usage
from app.billing.tables import Charge
from app.errors import IdempotencyKeyReused
from app.jobs.states import Status
from app.jobs.tables import IdempotencyKey, Job, Prompt


@dataclass(frozen=True, slots=True)
class Idempotency:
    """A client's Idempotency-Key and a hash of the request that it stands for."""

    key: str
    request_hash: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """A job that has been validated, priced and counted, but not stored.

    Exactly one of ``prompt`` and ``messages`` is set. ``at_most`` is the most tokens it can use.
    """

    account_id: UUID
    kind: str
    model: str
    version: str
    price: Price
    at_most: Usage
    parameters: dict[str, Any]
    prompt: str | None
    messages: list[dict[str, str]] | None
    metadata: dict[str, str]
    webhook_url: str | None
    priority: int
    deadline_seconds: int
    request_id: str
    idempotency: Idempotency | None


@dataclass(frozen=True, slots=True)
class Submitted:
    """The job's id; with the job and its charge when this call made them, without when an equal
    earlier call did.
    """

    job_id: UUID
    new: tuple[Job, Charge] | None = None


def submit(session: Session, draft: Draft) -> Submitted:
    """Store a job and hold its price.

    Raises InsufficientCredit, or IdempotencyKeyReused when the key stood for another request.
    """
    job_id = uuid7()
    if draft.idempotency is not None:
        earlier = _reserve_key(session, draft.account_id, draft.idempotency, job_id)
        if earlier is not None:
            return Submitted(earlier)
    job = _insert_job(session, draft, job_id)
    session.add(
        Prompt(
            job_id=job_id,
            account_id=draft.account_id,
            prompt=draft.prompt,
            messages=draft.messages,
        )
    )
    charge = ledger.hold(
        session,
        account_id=draft.account_id,
        job_id=job_id,
        price=draft.price,
        at_most=draft.at_most,
    )
    return Submitted(job_id, (job, charge))


def _insert_job(session: Session, draft: Draft, job_id: UUID) -> Job:
    return session.scalars(
        insert(Job)
        .values(
            id=job_id,
            account_id=draft.account_id,
            kind=draft.kind,
            model=draft.model,
            version=draft.version,
            status=Status.QUEUED,
            priority=draft.priority,
            parameters=draft.parameters,
            labels=draft.metadata,
            webhook_url=draft.webhook_url,
            request_id=draft.request_id,
            deadline_at=func.now() + timedelta(seconds=draft.deadline_seconds),
        )
        .returning(Job)  # the client is shown what was stored, times and all
    ).one()


def _reserve_key(
    session: Session, account_id: UUID, idempotency: Idempotency, job_id: UUID
) -> UUID | None:
    """Take the key for this job; returns the job of an earlier equal request, if there is one.

    Two at once: the second INSERT waits for the first transaction, then finds its row.
    """
    taken = session.execute(
        insert(IdempotencyKey)
        .values(
            account_id=account_id,
            key=idempotency.key,
            job_id=job_id,
            request_hash=idempotency.request_hash,
        )
        .on_conflict_do_nothing()
        .returning(IdempotencyKey.job_id)
    ).one_or_none()
    if taken is not None:
        return None
    earlier = session.scalars(
        select(IdempotencyKey).where(
            IdempotencyKey.account_id == account_id, IdempotencyKey.key == idempotency.key
        )
    ).one()
    if earlier.request_hash != idempotency.request_hash:
        raise IdempotencyKeyReused
    return earlier.job_id
