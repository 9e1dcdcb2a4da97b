"""The task of the webhook queue: hand what is due to threads that send it.

The delivery that a message names is only a hint, like a job's, and one message stands for all that
became due together. A host may have only so many deliveries in flight, and an account twice as
many, so that receivers that hang do not take every thread from the others.
"""

import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import structlog

from app.config import Settings
from app.db import Database
from app.errors import DatabaseUnavailable
from app.group import Group
from app.webhooks import outbox
from app.webhooks.lanes import Lane, Room
from app.webhooks.outbox import Parcel, Sent
from app.webhooks.sending import send
from app.webhooks.tables import DeliveryState

log = structlog.get_logger(__name__)

_MARGIN_SECONDS = 15  # beyond the receiver's time, for name resolution and writing the outcome


class Courier:
    """Delivers; what threads ask of the database at the same time is asked together."""

    def __init__(self, settings: Settings, database: Database) -> None:
        self._settings = settings
        self._database = database
        self._lease_seconds = settings.webhook_timeout_seconds + _MARGIN_SECONDS
        self._senders = ThreadPoolExecutor(settings.webhook_concurrency, "sender")
        self._free = settings.webhook_concurrency  # senders
        self._in_flight: Counter[Lane] = Counter()
        self._left_some = False  # whether more may be due than the last look took
        self._stopping = False
        self._changed = threading.Condition()
        self._looks: Group[None, None] = Group(self._look)
        self._marks: Group[Sent, DeliveryState | None] = Group(self._mark)

    def deliver_due(self) -> None:
        """Hand what is due to the free senders; what they leave is looked for as they get free."""
        if self._stopping:
            return
        try:
            self._looks.do(None)
        except DatabaseUnavailable:
            log.warning("delivery_missed")  # the sweep asks again

    def stop(self) -> None:
        """Take no more, and wait for what is in flight."""
        self._stopping = True
        self._senders.shutdown()

    def settle(self) -> None:
        """Wait until nothing is in flight."""
        with self._changed:
            self._changed.wait_for(lambda: self._free == self._settings.webhook_concurrency)

    def _look(self, callers: Sequence[None]) -> list[None]:
        with self._changed:
            free = self._free
            self._left_some = True  # for those that get free while this looks
        rooms: dict[Lane, int] = {}

        def room(lane: Lane) -> int:
            return rooms.setdefault(lane, self._room(lane))

        parcels = self._claim(free, room) if free else []
        taken = Counter(lane for parcel in parcels for lane in _lanes(parcel))
        with self._changed:
            self._free -= len(parcels)
            self._in_flight.update(taken)
            used_up = any(taken[lane] >= most for lane, most in rooms.items())
            self._left_some = used_up or len(parcels) == free
        for parcel in parcels:
            self._senders.submit(self._work, parcel)
        return [None] * len(callers)

    def _claim(self, free: int, room: Room) -> list[Parcel]:
        with self._database.transaction() as session:
            return outbox.claim(session, limit=free, room=room, lease_seconds=self._lease_seconds)

    def _room(self, lane: Lane) -> int:
        per_host = self._settings.webhook_concurrency_per_host
        limit = per_host if isinstance(lane, str) else 2 * per_host
        return limit - self._in_flight[lane]

    def _work(self, parcel: Parcel) -> None:
        with _logged(parcel):
            self._deliver(parcel)
        with self._changed:
            self._free += 1
            self._changed.notify_all()
            left_some = self._left_some
        if left_some:
            with _logged(parcel):
                self.deliver_due()

    def _deliver(self, parcel: Parcel) -> None:
        try:
            answer = send(parcel, self._settings)
        finally:
            with self._changed:
                self._in_flight -= Counter(_lanes(parcel))  # which forgets those at zero
        state = self._marks.do((parcel, answer))
        log.info(
            "webhook_sent",
            delivery_id=str(parcel.id),
            attempt=parcel.attempt,
            status=answer.status,
            error=answer.error,
            state=state,
        )

    def _mark(self, sent: Sequence[Sent]) -> list[DeliveryState | None]:
        with self._database.transaction() as session:
            return outbox.mark(session, sent, lease_seconds=self._lease_seconds)


@contextmanager
def _logged(parcel: Parcel) -> Iterator[None]:
    try:
        yield
    except DatabaseUnavailable:
        log.warning("delivery_missed")  # it is due again when its lease ends
    except Exception:
        log.exception("delivery_failed", delivery_id=str(parcel.id))


def _lanes(parcel: Parcel) -> tuple[Lane, ...]:
    return parcel.host, parcel.account_id
