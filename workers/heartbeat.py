"""The thread that keeps a worker's leases, hears cancellations, and says that it is alive."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import structlog
from sqlalchemy.orm import Session

from app.config import Settings
from app.db import Database
from app.errors import DatabaseUnavailable
from app.fleet import presence
from app.jobs import lease
from app.jobs.transition import Lease

log = structlog.get_logger(__name__)


class Heartbeat:
    """Renews the leases of the jobs in hand until each is let go.

    ``cancel`` is called for a job whose owner cancelled it, and for one whose lease is lost.
    """

    def __init__(
        self,
        settings: Settings,
        database: Database,
        *,
        cancel: Callable[[Lease], None],
        report: Callable[[], Sequence[presence.Report]],
    ) -> None:
        self._settings = settings
        self._database = database
        self._cancel = cancel
        self._report = report
        self._leases: set[Lease] = set()
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def start(self) -> None:
        """Report once, then go on in the background."""
        self.beat()
        self._thread.start()

    def stop(self) -> None:
        """Report a last time."""
        self._stopping.set()
        self._thread.join()
        self.beat()

    @contextmanager
    def keeping(self, held: Lease) -> Iterator[None]:
        """Renew this lease during the block: until what came of the job is written."""
        with self._lock:
            self._leases.add(held)
        try:
            yield
        finally:
            with self._lock:
                self._leases.discard(held)

    def beat(self) -> None:
        """Renew every lease and report, now."""
        try:
            with self._database.transaction() as session:
                self._renew(session)
                presence.report(session, self._report())
        except DatabaseUnavailable:
            log.warning("heartbeat_missed")

    def _run(self) -> None:
        due = time.monotonic() + self._settings.heartbeat_seconds
        while not self._stopping.wait(self._settings.cancel_poll_seconds):
            try:
                self._hear()
                if time.monotonic() >= due:
                    self.beat()
                    due = time.monotonic() + self._settings.heartbeat_seconds
            except Exception:
                # Whatever it is: a worker whose heart stops loses every job in hand.
                log.exception("heartbeat_failed")

    def _hear(self) -> None:
        held = self._held()
        if not held:
            return
        try:
            with self._database.transaction() as session:
                cancelled = lease.cancelled(session, held)
        except DatabaseUnavailable:
            return
        for each in held:
            if each.job_id in cancelled:
                self._cancel(each)

    def _renew(self, session: Session) -> None:
        held = self._held()
        if not held:
            return
        lost_or_ended = held - lease.renew(session, held, self._settings.lease_seconds)
        if not lost_or_ended:
            return
        for lost in lease.lost(session, lost_or_ended):
            log.warning("lease_lost", job_id=str(lost.job_id), attempt=lost.attempt)
            self._cancel(lost)

    def _held(self) -> set[Lease]:
        with self._lock:
            return set(self._leases)
