"""The thread that takes batches further, step by step; every maintenance worker has one.

The batch that a message names is only a hint: the thread does whatever step is due, of any batch,
and ends when no batch is open. A step is one transaction under the lock of its batch's row, so two
of these threads, in whatever processes, never do the same one.
"""

import threading
from functools import cached_property
from uuid import UUID

import structlog

from app import catalog
from app.batches import steps
from app.batches.steps import Offer, Step
from app.config import Settings
from app.db import Database
from app.errors import DatabaseUnavailable
from app.jobs import telling
from app.queues import Broker

log = structlog.get_logger(__name__)

_LONGEST_WAIT_SECONDS = 1.0
_AFTER_A_FAULT_SECONDS, _AFTER_AN_OUTAGE_SECONDS = 30.0, 2.0
_SHORTEST_WAIT_SECONDS = 0.05  # where what is due is in other hands


class Feeder:
    """Looks after every open batch while it runs; started when somebody says that there is one."""

    def __init__(self, settings: Settings, database: Database, broker: Broker) -> None:
        self._settings = settings
        self._database = database
        self._broker = broker
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._asked = False

    @cached_property
    def _offer(self) -> Offer:
        return Offer(catalog.load(self._settings.catalog_file), self._settings)

    def wake(self) -> None:
        """There may be a batch to look after."""
        with self._lock:
            self._asked = True
            if self._thread is None and not self._stopping.is_set():
                self._thread = threading.Thread(target=self._run, name="feeder", daemon=True)
                self._thread.start()

    def stop(self) -> None:
        """End after the step in hand."""
        self._stopping.set()
        with self._lock:
            thread = self._thread
        if thread is not None:
            thread.join()

    def step(self) -> float | None:
        """Do the step that is due longest. Returns the seconds until there may be another, None
        where no batch is open. Raises DatabaseUnavailable.
        """
        batch_id: UUID | None = None
        try:
            with self._database.transaction() as session:
                batch_id = steps.lock_next(session)
                if batch_id is None:
                    return steps.seconds_until_due(session)
                done = steps.advance(session, batch_id, self._offer)
        except Exception as error:
            if batch_id is None:
                raise
            self._postpone(batch_id, error)
            return 0.0
        self._tell(done)
        return 0.0

    def _postpone(self, batch_id: UUID, error: Exception) -> None:
        """Let the other batches go first; raises DatabaseUnavailable."""
        seconds = _AFTER_A_FAULT_SECONDS
        if isinstance(error, DatabaseUnavailable):
            log.warning("batch_step_missed", batch_id=str(batch_id))
            seconds = _AFTER_AN_OUTAGE_SECONDS
        else:
            log.error("batch_step_failed", batch_id=str(batch_id), exc_info=error)
        with self._database.transaction() as session:
            steps.postpone(session, batch_id, seconds)

    def _tell(self, done: Step) -> None:
        """After the commit; what is lost here, the sweep sends again."""
        self._broker.enqueue_jobs(done.jobs)
        telling.tell(self._broker, done.ended)
        if done.is_last:
            log.info("batch_ended", batch_id=str(done.batch_id), state=done.state)

    def _run(self) -> None:
        try:
            while not self._is_over():
                self._asked = False
                while not self._stopping.is_set() and (seconds := self.step()) is not None:
                    if seconds:
                        wait = max(_SHORTEST_WAIT_SECONDS, min(seconds, _LONGEST_WAIT_SECONDS))
                        self._stopping.wait(wait)
        except DatabaseUnavailable:
            log.warning("batches_missed")  # the sweep wakes another
        except Exception:
            log.exception("feeder_failed")
        finally:
            with self._lock:
                if self._thread is threading.current_thread():
                    self._thread = None

    def _is_over(self) -> bool:
        with self._lock:
            over = self._stopping.is_set() or not self._asked
            if over:
                self._thread = None  # whoever asks from now on gets another
            return over
