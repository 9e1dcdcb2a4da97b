"""The task of the webhook queue: send what is due until nothing is.

The delivery that a message names is only a hint, like a job's. A host may have only so many
deliveries in flight, and an account twice as many, so that receivers that hang do not take every
thread from the others.
"""

import threading
import time
from collections import Counter
from collections.abc import Sequence

import structlog

from app.config import Settings
from app.db import Database
from app.errors import DatabaseUnavailable
from app.group import Group
from app.webhooks import outbox
from app.webhooks.lanes import Lane
from app.webhooks.outbox import Parcel, Sent
from app.webhooks.sending import send
from app.webhooks.tables import DeliveryState

log = structlog.get_logger(__name__)

_MARGIN_SECONDS = 15  # beyond the receiver's time, for name resolution and writing the outcome
_SHIFT_SECONDS = 10  # then a task ends, so that a process that is to stop can


class Courier:
    """Delivers; what threads ask of the database at the same time is asked together."""

    def __init__(self, settings: Settings, database: Database) -> None:
        self._settings = settings
        self._database = database
        self._in_flight: Counter[Lane] = Counter()
        self._lock = threading.Lock()
        self._lease_seconds = settings.webhook_timeout_seconds + _MARGIN_SECONDS
        self._claims: Group[None, Parcel | None] = Group(self._claim)
        self._marks: Group[Sent, DeliveryState | None] = Group(self._mark)

    def deliver_due(self) -> None:
        """Send webhooks that are due, one after the other."""
        until = time.monotonic() + _SHIFT_SECONDS
        while time.monotonic() < until:
            try:
                parcel = self._claims.do(None)
                if parcel is None:
                    return
                self._deliver(parcel)
            except DatabaseUnavailable:
                log.warning("delivery_missed")  # it is due again when its lease ends
                return

    def _deliver(self, parcel: Parcel) -> None:
        try:
            answer = send(parcel, self._settings)
        finally:
            with self._lock:
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

    def _claim(self, callers: Sequence[None]) -> list[Parcel | None]:
        with self._database.transaction() as session:
            parcels = outbox.claim(
                session,
                limit=len(callers),
                room=self._room,
                lease_seconds=self._lease_seconds,
            )
        with self._lock:
            self._in_flight.update(lane for parcel in parcels for lane in _lanes(parcel))
        return [*parcels, *[None] * (len(callers) - len(parcels))]

    def _room(self, lane: Lane) -> int:
        per_host = self._settings.webhook_concurrency_per_host
        limit = per_host if isinstance(lane, str) else 2 * per_host
        with self._lock:
            return limit - self._in_flight[lane]

    def _mark(self, sent: Sequence[Sent]) -> list[DeliveryState | None]:
        with self._database.transaction() as session:
            return outbox.mark(session, sent, lease_seconds=self._lease_seconds)


def _lanes(parcel: Parcel) -> tuple[Lane, ...]:
    return parcel.host, parcel.account_id
