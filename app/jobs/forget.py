"""Idempotency keys that are past their life stand for nothing, and go."""

from sqlalchemy import delete, func, select, tuple_
from sqlalchemy.orm import Session

from app.jobs.submit import KEYS_LIVE
from app.jobs.tables import IdempotencyKey


def forget_keys(session: Session, limit: int = 1000) -> None:
    """Delete the oldest keys that are past their life, ``limit`` at most."""
    key = tuple_(IdempotencyKey.account_id, IdempotencyKey.key)
    old = (
        select(IdempotencyKey.account_id, IdempotencyKey.key)
        .where(IdempotencyKey.created_at < func.now() - KEYS_LIVE)
        .order_by(IdempotencyKey.created_at)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    session.execute(
        delete(IdempotencyKey).where(key.in_(old)).execution_options(synchronize_session=False)
    )
