"""-> validating, and -> cancelling: what clients do to a batch."""

import hashlib
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

from sqlalchemy import ColumnElement, func, select
from sqlalchemy.orm import Session
from uuid_utils.compat import uuid7

from app.accounts.tables import Account
from app.batches.queries import owned_batch
from app.batches.tables import Batch, State
from app.errors import BatchEnded, FileNotFound, IdempotencyKeyReused, InvalidRequest
from app.files.reading import owned_file
from app.files.tables import Purpose
from app.openai.batches import BatchBody

_WINDOW = timedelta(hours=24)
_REPEATED_WITHIN = timedelta(minutes=15)


@dataclass(frozen=True, slots=True, kw_only=True)
class NewBatch:
    """What a client asks for. ``is_repeated``: it says that it may have asked before, and has not
    heard the answer.
    """

    account_id: UUID
    key_id: str
    body: BatchBody
    input_file_id: UUID | None
    idempotency_key: str | None
    is_repeated: bool

    @property
    def request_hash(self) -> bytes:
        """Equal for equal requests."""
        return hashlib.sha256(self.body.model_dump_json().encode()).digest()


def create(session: Session, asked: NewBatch) -> Batch:
    """The new batch, or the one that an equal earlier request made.

    Raises InvalidRequest or IdempotencyKeyReused.
    """
    # One after the other, so that a repetition cannot overtake what it repeats.
    mine = select(Account.id, func.now()).where(Account.id == asked.account_id)
    now = session.execute(mine.with_for_update(key_share=True)).one()[1]
    known = _known(session, asked)
    if known is not None:
        return known
    expiry = asked.body.output_expires_after
    batch = Batch(
        id=uuid7(),
        account_id=asked.account_id,
        key_id=asked.key_id,
        endpoint=asked.body.endpoint,
        input_file_id=_input(session, asked),
        labels=asked.body.metadata,
        output_expires_seconds=expiry.seconds if expiry else None,
        request_hash=asked.request_hash,
        idempotency_key=asked.idempotency_key,
        state=State.VALIDATING,
        created_at=now,
        expires_at=now + _WINDOW,
    )
    session.add(batch)
    session.flush()
    return batch


def cancel_batch(session: Session, account_id: UUID, unique: UUID) -> Batch:
    """Let no more lines become jobs, and end those that are; raises BatchNotFound or BatchEnded."""
    batch = owned_batch(session, account_id, unique, lock=True)
    if batch.state in (State.CANCELLING, State.CANCELLED):
        return batch
    if batch.state not in (State.VALIDATING, State.IN_PROGRESS):
        raise BatchEnded(f"The batch is {batch.state} and cannot be cancelled.")
    now = session.execute(select(func.now())).scalar_one()
    batch.state, batch.cancelling_at, batch.look_at = State.CANCELLING, now, now
    return batch


def _known(session: Session, asked: NewBatch) -> Batch | None:
    if asked.idempotency_key is not None:
        batch = _newest(session, asked, Batch.idempotency_key == asked.idempotency_key)
        if batch is not None and batch.request_hash != asked.request_hash:
            raise IdempotencyKeyReused
        return batch
    if not asked.is_repeated:
        return None
    return _newest(
        session,
        asked,
        Batch.request_hash == asked.request_hash,
        Batch.key_id == asked.key_id,
        Batch.created_at > func.now() - _REPEATED_WITHIN,
    )


def _newest(session: Session, asked: NewBatch, *which: ColumnElement[bool]) -> Batch | None:
    mine = select(Batch).where(Batch.account_id == asked.account_id, *which)
    return session.scalars(mine.order_by(Batch.id.desc()).limit(1)).one_or_none()


def _input(session: Session, asked: NewBatch) -> UUID:
    """The file, locked so that it is not deleted before the batch is there."""
    try:
        if asked.input_file_id is None:
            raise FileNotFound
        file = owned_file(session, asked.account_id, asked.input_file_id, lock=True)
    except FileNotFound:
        raise _refused("there is no such file in this account") from None
    if file.purpose != Purpose.BATCH:
        raise _refused('its purpose is not "batch"')
    return file.id


def _refused(message: str) -> InvalidRequest:
    problem = {"field": "input_file_id", "message": message}
    return InvalidRequest(f"input_file_id: {message}", errors=[problem])
