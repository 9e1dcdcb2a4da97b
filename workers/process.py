"""What one worker process is made of; composed once, when Celery starts it."""

import time
from collections.abc import Collection, Mapping, Sequence

import structlog

from app import catalog, schema
from app.catalog import Model
from app.config import Settings
from app.db import Database
from app.errors import GPTQueueError, LeaseLost, ModelLoadFailed
from app.group import Group
from app.jobs import finish, telling
from app.jobs.ending import Ended
from app.jobs.handback import HandedBack, hand_back
from app.jobs.rescue import lose
from app.jobs.transition import End, Lease
from app.queues import GENERATE_PREFIX, Broker, generate_queue
from workers.deliver import Courier
from workers.feed import Feeder
from workers.grace import Grace
from workers.serving import Identity, Serving
from workers.streams import Streams

log = structlog.get_logger(__name__)

# So long a message waits for an engine that is being restarted, before others may have it.
_RESTART_SECONDS = 30.0
_LOOK_SECONDS = 0.1


class Process:
    """The services of this process, and the models it serves by queue name."""

    def __init__(self, settings: Settings, database: Database, broker: Broker) -> None:
        self.settings = settings
        self.database = database
        self.broker = broker
        self.servings: dict[str, Serving] = {}
        self.grace = Grace(settings.shutdown_grace_seconds, over=self.close)
        self._finishes: Group[End, Ended] = Group(self._finish, gather=True)
        self._hand_backs: Group[Lease, None] = Group(self._hand_back)
        self._losses: Group[Lease, None] = Group(self._lose)
        self.streams = Streams(broker)
        self.courier = Courier(settings, database)
        self.feeder = Feeder(settings, database, broker)

    def serve(self, queues: list[str], worker: str) -> list[str]:
        """Load the model of each generation queue among ``queues``, with its adapters; the queues
        that can be consumed now. Raises ModelLoadFailed.
        """
        self.grace.start()
        self.streams.start()
        served = catalog.load(self.settings.catalog_file)
        names = [
            queue.removeprefix(GENERATE_PREFIX)
            for queue in queues
            if queue.startswith(GENERATE_PREFIX)
        ]
        for name in names:
            try:
                model = served.served(name)
                _check_base(name, model, names)
            except GPTQueueError as error:
                log.error("model_load_failed", model=name, error=error.message)
                raise ModelLoadFailed(error.message) from error
            if model.current.base is None:
                identity = Identity(worker=worker, model=name, version=model.version)
                self._load(identity, model, adapters=served.adapters_of(name))
        return [generate_queue(model) for each in self._all() for model, _ in each.served]

    def _load(self, identity: Identity, model: Model, *, adapters: Mapping[str, Model]) -> None:
        serving = Serving(
            self.settings,
            self.database,
            identity,
            streams=self.streams,
            adapters=adapters,
        )
        for name in (identity.model, *adapters):
            self.servings[generate_queue(name)] = serving
        serving.start(model)

    def _all(self) -> set[Serving]:
        """Each once: that of a model with adapters has several queues."""
        return set(self.servings.values())

    @property
    def failed(self) -> bool:
        """Whether an engine died for good, so that this process is no success when it ends."""
        return any(serving.failed for serving in self._all())

    def finish(self, end: End) -> None:
        """Write how a job ended, and tell; raises LeaseLost or DatabaseUnavailable."""
        self._finishes.do(end)

    def _finish(self, ends: Sequence[End]) -> list[Ended | LeaseLost]:
        with self.database.transaction() as session:
            answers = finish.finish(session, ends, base_url=self.settings.public_url)
        self.tell([answer for answer in answers if isinstance(answer, Ended)])
        return answers

    def hand_back(self, lease: Lease) -> None:
        """Give a job to other workers, and tell them; raises DatabaseUnavailable."""
        self._hand_backs.do(lease)

    def _hand_back(self, leases: Sequence[Lease]) -> list[None]:
        with self.database.transaction() as session:
            answer = hand_back(session, leases, base_url=self.settings.public_url)
        return self._pass_on(answer, len(leases))

    def lose(self, lease: Lease) -> None:
        """Say that the engine died under a job, which others may try; raises DatabaseUnavailable.

        It ends as failed when that was its last attempt.
        """
        self._losses.do(lease)

    def _lose(self, leases: Sequence[Lease]) -> list[None]:
        with self.database.transaction() as session:
            answer = lose(
                session,
                leases,
                max_attempts=self.settings.max_attempts,
                base_url=self.settings.public_url,
            )
        return self._pass_on(answer, len(leases))

    def _pass_on(self, answer: HandedBack, count: int) -> list[None]:
        self.broker.enqueue_jobs(answer.waiting)
        self.tell(answer.ended)
        return [None] * count

    def wait_until_ready(self, serving: Serving) -> bool:
        """Whether its engine can take a job; waits a while for one that is being restarted."""
        give_up = time.monotonic() + _RESTART_SECONDS
        while not serving.ready():
            if self.grace.begun or serving.closed or time.monotonic() > give_up:
                return False
            time.sleep(_LOOK_SECONDS)
        return True

    def tell(self, ended: Collection[Ended]) -> None:
        """After the commit: wake who waits for these jobs, and send their webhooks."""
        telling.tell(self.broker, ended)

    def close(self) -> None:
        """Stop every engine; the jobs in them are handed back."""
        for serving in self._all():
            serving.close()

    def stop(self) -> None:
        """Stop every engine, say goodbye, and let webhooks that are on their way arrive."""
        for serving in self._all():
            serving.stop()
        self.streams.close()
        self.feeder.stop()
        self.courier.stop()


def _check_base(name: str, model: Model, names: Collection[str]) -> None:
    """Raise ModelLoadFailed for an adapter whose base is not among the models to be served."""
    base = model.current.base
    if base is not None and base not in names:
        raise ModelLoadFailed(
            f"{name} is an adapter of {base}: the workers of {base} serve it (-Q "
            f"{generate_queue(base)}), and no others."
        )


def compose(settings: Settings) -> Process:
    """The process for these settings."""
    return Process(settings, Database(settings, schema.metadata), Broker(settings))
