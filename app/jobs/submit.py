"""-> queued: the job, its prompt and its hold, in one transaction; many jobs in one go.

The balances of the accounts are locked first. So the submits of an account follow one another,
and what is read of its credit and its idempotency keys stays true until the commit.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import delete, select, tuple_
from sqlalchemy.orm import Session
from uuid_utils.compat import uuid7

from app.billing import ledger
from app.billing.prices import CURRENCY, Price, Usage
from app.billing.tables import Charge
from app.errors import GPTQueueError, IdempotencyKeyReused, InsufficientCredit
from app.jobs.states import Status
from app.jobs.tables import IdempotencyKey, Job, Prompt
from app.rows import store


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
    conversation: str | None = None
    set_id: UUID | None = None
    exact: bool = True  # whether the prompt's tokens in ``at_most`` are counted, or a bound
    job_id: UUID = field(default_factory=uuid7)

    @property
    def key(self) -> tuple[UUID, str]:
        """The account and its key, which may stand for a job already."""
        return self.account_id, self.idempotency.key if self.idempotency else ""

    @property
    def hold(self) -> ledger.Hold:
        """The money to set aside."""
        return ledger.Hold(
            account_id=self.account_id,
            job_id=self.job_id,
            price=self.price,
            at_most=self.at_most,
        )


KEYS_LIVE = timedelta(hours=24)

Key = tuple[UUID, str]  # an account and its Idempotency-Key
Known = dict[Key, tuple[UUID, bytes]]  # the job that it made, and the hash of the request


@dataclass(frozen=True, slots=True)
class Submitted:
    """The job's id; with the job and its charge when this call made them, without when an equal
    earlier call did.
    """

    job_id: UUID
    new: tuple[Job, Charge] | None = None


Answer = Submitted | GPTQueueError


def submit(session: Session, drafts: Sequence[Draft], *, wait: bool = True) -> list[Answer | None]:
    """Store jobs and hold their prices: an answer for each draft, in their order.

    Where it is an error, InsufficientCredit or IdempotencyKeyReused, nothing of it was stored.
    Without ``wait``, drafts of an account whose balance is not free are not looked at: None.
    """
    accounts = {draft.account_id for draft in drafts}
    credit, now = ledger.lock_available(session, accounts, wait=wait)
    free = [draft for draft in drafts if wait or draft.account_id in credit]
    known = _known_keys(session, free, now)
    answers: dict[UUID, Answer] = {}
    accepted = []
    for draft in free:
        answer = _answer_at_once(draft, known, credit)
        if answer is not None:
            answers[draft.job_id] = answer
            continue
        accepted.append(draft)
        credit[draft.account_id] -= draft.hold.amount_micros
        if draft.idempotency is not None:
            known[draft.key] = draft.job_id, draft.idempotency.request_hash
    answers |= _store(session, accepted, now)
    return [answers.get(draft.job_id) for draft in drafts]


def _known_keys(session: Session, drafts: Sequence[Draft], now: datetime) -> Known:
    """What these drafts' keys stand for already; keys past their life are forgotten here."""
    keys = [draft.key for draft in drafts if draft.idempotency is not None]
    if not keys:
        return {}
    theirs = tuple_(IdempotencyKey.account_id, IdempotencyKey.key).in_(keys)
    session.execute(
        delete(IdempotencyKey).where(theirs, IdempotencyKey.created_at < now - KEYS_LIVE)
    )
    rows = session.scalars(select(IdempotencyKey).where(theirs))
    return {(row.account_id, row.key): (row.job_id, row.request_hash) for row in rows}


def _answer_at_once(draft: Draft, known: Known, credit: dict[UUID, int]) -> Answer | None:
    """The answer to a draft that is not stored: it was before, or there is no credit for it."""
    if draft.idempotency is not None and draft.key in known:
        job_id, request_hash = known[draft.key]
        same = request_hash == draft.idempotency.request_hash
        return Submitted(job_id) if same else IdempotencyKeyReused()
    amount = draft.hold.amount_micros
    available = credit.get(draft.account_id)
    if available is None or amount > available:
        return InsufficientCredit(
            required_micros=amount, available_micros=available or 0, currency=CURRENCY
        )
    return None


def _store(session: Session, drafts: Sequence[Draft], now: datetime) -> dict[UUID, Answer]:
    jobs = [_job(draft, now) for draft in drafts]
    keys = [_key(draft) for draft in drafts if draft.idempotency is not None]
    prompts = [_prompt(draft) for draft in drafts]
    store(session, (Job, jobs), (Prompt, prompts), (IdempotencyKey, keys))
    charges = ledger.hold(session, [draft.hold for draft in drafts])
    return {
        draft.job_id: Submitted(draft.job_id, (_shown(job), charge))
        for draft, job, charge in zip(drafts, jobs, charges, strict=True)
    }


def _job(draft: Draft, now: datetime) -> dict[str, Any]:
    return {
        "id": draft.job_id,
        "account_id": draft.account_id,
        "kind": draft.kind,
        "model": draft.model,
        "version": draft.version,
        "status": Status.QUEUED,
        "priority": draft.priority,
        "parameters": draft.parameters,
        "metadata": draft.metadata,
        "webhook_url": draft.webhook_url,
        "request_id": draft.request_id,
        "conversation": draft.conversation,
        "set_id": draft.set_id,
        "attempt": 0,
        "deadline_at": now + timedelta(seconds=draft.deadline_seconds),
        "created_at": now,
    }


def _shown(row: dict[str, Any]) -> Job:
    """The job as it was stored, without reading it back."""
    return Job(labels=row["metadata"], **{name: row[name] for name in row if name != "metadata"})


def _prompt(draft: Draft) -> dict[str, Any]:
    return {
        "job_id": draft.job_id,
        "account_id": draft.account_id,
        "prompt": draft.prompt,
        "messages": draft.messages,
    }


def _key(draft: Draft) -> dict[str, Any]:
    assert draft.idempotency is not None
    return {
        "account_id": draft.account_id,
        "key": draft.idempotency.key,
        "job_id": draft.job_id,
        "request_hash": draft.idempotency.request_hash,
    }
