"""Idempotency keys that are past their life stand for nothing, and go."""

from sqlalchemy import delete, func, select, tuple_
from sqlalchemy.orm import Session

from app.jobs.submit import KEYS_LIVE
from app.jobs.tables import IdempotencyKey


def forget_keys(session: Session, limit: int = 1000) -> bool:
    """Delete the oldest keys past their life, ``limit`` at most; whether there were any."""
    key = tuple_(IdempotencyKey.account_id, IdempotencyKey.key)
    old = (
        select(IdempotencyKey.account_id, IdempotencyKey.key)
        .where(IdempotencyKey.created_at < func.now() - KEYS_LIVE)
        .order_by(IdempotencyKey.created_at)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    gone = session.scalars(
        delete(IdempotencyKey)
        .where(key.in_(old))
        .returning(IdempotencyKey.job_id)
        .execution_options(synchronize_session=False)
    ).all()
    return bool(gone)
