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
from app.webhooks.lanes import Lane
from app.webhooks.outbox import Claimed
from app.webhooks.parcels import Parcel, Sent
from app.webhooks.sending import send
from app.webhooks.tables import DeliveryState

log = structlog.get_logger(__name__)

_LOOKS = 100  # one after the other, while there is nothing to send but more to be seen
_MARGIN_SECONDS = 15  # beyond the receiver's time, for name resolution and writing the outcome


class Courier:
    """Delivers; what threads ask of the database at the same time is asked together."""

    def __init__(self, settings: Settings, database: Database) -> None:
        self._settings = settings
        self._database = database
        self._lease_seconds = settings.webhook_timeout_seconds + _MARGIN_SECONDS
        self._senders = ThreadPoolExecutor(settings.webhook_concurrency, "sender")
        self._free = settings.webhook_concurrency  # senders
        self._working = 0  # until the look that follows, too
        self._in_flight: Counter[Lane] = Counter()
        self._left_some = False  # whether more may be due than the last look took
        self._stopping = False
        self._looking = threading.Lock()
        self._changed = threading.Condition()
        self._looks: Group[None, None] = Group(self._look)
        self._marks: Group[Sent, DeliveryState | None] = Group(self._mark, gather=True)

    def deliver_due(self) -> None:
        """Hand what is due to the free senders; what they leave is looked for as they get free."""
        try:
            self._looks.do(None)
        except DatabaseUnavailable:
            log.warning("delivery_missed")  # the sweep asks again

    def stop(self) -> None:
        """Take no more, and wait for what is in flight."""
        with self._looking:  # what a look has claimed is handed over
            self._stopping = True
        self._senders.shutdown()

    def settle(self) -> None:
        """Wait until nothing is in flight, and nobody looks for more."""
        with self._changed:
            self._changed.wait_for(lambda: not self._working)

    def _look(self, callers: Sequence[None]) -> list[None]:
        with self._looking:
            for _ in range(_LOOKS):
                if self._stopping or not self._look_once():
                    break
        return [None] * len(callers)

    def _look_once(self) -> bool:
        """Whether to look again at once: more is due, and nobody is in flight who would."""
        with self._changed:
            free = self._free
            self._left_some = True  # for those that get free while this looks
        if not free:
            return False
        claimed = self._claim(free)
        with self._changed:
            self._free -= len(claimed.parcels)
            self._working += len(claimed.parcels)
            self._in_flight.update(lane for each in claimed.parcels for lane in _lanes(each))
            self._left_some = claimed.more
            alone = not self._in_flight
        for parcel in claimed.parcels:
            with _logged(parcel):  # a thread that cannot start leaves it to those that are there
                self._senders.submit(self._work, parcel)
        return claimed.more and alone

    def _claim(self, free: int) -> Claimed:
        with self._database.transaction() as session:
            return outbox.claim(
                session, limit=free, room=self._room, lease_seconds=self._lease_seconds
            )

    def _room(self, lane: Lane) -> int:
        per_host = self._settings.webhook_concurrency_per_host
        limit = per_host if isinstance(lane, str) else 2 * per_host
        return limit - self._in_flight[lane]

    def _work(self, parcel: Parcel) -> None:
        with _logged(parcel):
            self._deliver(parcel)
        with self._changed:
            self._free += 1
            left_some = self._left_some
        if left_some:
            with _logged(parcel):
                self.deliver_due()
        with self._changed:
            self._working -= 1
            self._changed.notify_all()

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
