"""What one worker process is made of; composed once, when Celery starts it."""

from dataclasses import dataclass, field

import structlog
from celery import Celery

from app import catalog, schema
from app.config import Settings
from app.db import Database
from app.errors import GPTQueueError, ModelLoadFailed
from app.jobs.ending import Ended
from app.queues import GENERATE_PREFIX, Broker
from workers.serving import Identity, Serving

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Process:
    """The services of this process, and the models it serves by queue name."""

    settings: Settings
    database: Database
    broker: Broker
    servings: dict[str, Serving] = field(default_factory=dict)

    def serve(self, queues: list[str], worker: str) -> None:
        """Load the model of each generation queue among ``queues``; raises ModelLoadFailed."""
        served = catalog.load(self.settings.catalog_file)
        for queue in queues:
            if not queue.startswith(GENERATE_PREFIX):
                continue
            name = queue.removeprefix(GENERATE_PREFIX)
            try:
                model = served.served(name)
            except GPTQueueError as error:
                raise ModelLoadFailed(error.message) from error
            identity = Identity(worker=worker, model=name, version=model.version)
            self.servings[queue] = Serving(self.settings, self.database, identity)
            self.servings[queue].start(model)

    def tell(self, ended: Ended) -> None:
        """After the commit: wake who waits for the job, and send its webhook."""
        self.broker.announce_end(ended.job_id)
        if ended.delivery_id is not None:
            self.broker.enqueue_deliveries([ended.delivery_id])

    def stop(self) -> None:
        """Stop every engine."""
        for serving in self.servings.values():
            serving.stop()


def compose(settings: Settings, celery: Celery) -> Process:
    """The process for these settings."""
    return Process(settings, Database(settings, schema.metadata), Broker(settings, celery))
