"""What is next for a batch: one step, in the caller's transaction and under the lock of its row."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from app.batches.feeding import GROUP_LINES, MOST_RUNNING, feed
from app.batches.harvesting import cancel_some, harvest, has_expired_jobs
from app.batches.tables import OPEN, Batch, State
from app.batches.validating import validate
from app.batches.writing import write
from app.catalog import Catalog
from app.config import Settings
from app.jobs.ending import Ended

_FIRST_PAUSE_MS, _LONGEST_PAUSE_MS = 100, 3200
_IS_OPEN = Batch.state.in_([state.value for state in OPEN])


class Offer(NamedTuple):
    """What is sold, and how."""

    catalog: Catalog
    settings: Settings


@dataclass(slots=True)
class Step:
    """What a step has done that others are to be told of, once it is stored."""

    batch_id: UUID
    state: str = ""
    jobs: Sequence[tuple[str, UUID]] = ()
    ended: Sequence[Ended] = field(default_factory=list)

    @property
    def is_last(self) -> bool:
        """Whether the batch has ended with it."""
        return self.state not in OPEN


def lock_next(session: Session) -> UUID | None:
    """The open batch that is due longest, locked; what others have in hand is theirs."""
    due = select(Batch.id).where(_IS_OPEN, Batch.look_at <= func.now()).order_by(Batch.look_at)
    return session.scalar(due.limit(1).with_for_update(skip_locked=True))


def seconds_until_due(session: Session) -> float | None:
    """How long nothing will be due; None where no batch is open."""
    earliest = select(func.extract("epoch", func.min(Batch.look_at) - func.now())).where(_IS_OPEN)
    seconds = session.scalar(earliest)
    return None if seconds is None else max(0.0, float(seconds))


def advance(session: Session, batch_id: UUID, offer: Offer) -> Step:
    """Do the next step of a batch that is locked, and say when the one after it is due."""
    batch, now = session.execute(select(Batch, func.now()).where(Batch.id == batch_id)).one()
    step = Step(batch.id)
    if batch.state == State.VALIDATING and now < batch.expires_at:
        validate(session, batch, now=now, catalog=offer.catalog, settings=offer.settings)
        pause_ms = 0
    elif batch.ending is not None:
        write(session, batch, now=now, settings=offer.settings)
        pause_ms = 0
    else:
        pause_ms = _go_on(session, batch, step, now=now, offer=offer)
    batch.pause_ms, step.state = pause_ms, batch.state
    batch.look_at = now + timedelta(milliseconds=pause_ms)
    return step


def postpone(session: Session, batch_id: UUID, seconds: float) -> None:
    """Its step failed: let the other batches go first."""
    session.execute(
        update(Batch)
        .where(Batch.id == batch_id, _IS_OPEN)
        .values(look_at=func.now() + timedelta(seconds=seconds))
        .execution_options(synchronize_session=False)
    )


def _go_on(session: Session, batch: Batch, step: Step, *, now: datetime, offer: Offer) -> int:
    """Between reading and writing; returns how long there will be nothing to do."""
    harvested = harvest(session, batch)
    if _is_done(session, batch, now):
        return 0
    late = now >= batch.expires_at
    if batch.state == State.CANCELLING:
        step.ended = cancel_some(session, batch, base_url=offer.settings.public_url)
    elif _has_room(batch) and not late:
        fed = feed(session, batch, now=now, catalog=offer.catalog, settings=offer.settings)
        step.jobs = fed.jobs
        if fed.jobs or fed.refused:
            return 0
    if write(session, batch, now=now, settings=offer.settings):
        return 0
    if harvested or step.ended:
        return _FIRST_PAUSE_MS
    return min(max(_FIRST_PAUSE_MS, 2 * batch.pause_ms), _LONGEST_PAUSE_MS)


def _has_room(batch: Batch) -> bool:
    """Whether a whole group may become jobs: many small ones would cost more."""
    return batch.waiting > 0 and batch.running <= MOST_RUNNING - GROUP_LINES


def _is_done(session: Session, batch: Batch, now: datetime) -> bool:
    """Whether all that will be done is done: what has no job by then never gets one."""
    late = now >= batch.expires_at
    if batch.running or (batch.waiting and not late and batch.state != State.CANCELLING):
        return False
    if batch.state == State.CANCELLING:
        batch.ending = State.CANCELLED
    else:
        read = batch.state != State.VALIDATING
        cut_off = late and (batch.waiting or not read or has_expired_jobs(session, batch))
        batch.ending = State.EXPIRED if cut_off else State.COMPLETED
        batch.state, batch.finalizing_at = State.FINALIZING, now
    batch.failed += batch.waiting
    batch.waiting = 0
    return True
