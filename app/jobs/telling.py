"""After the commit of an end: wake who waits for these jobs, and send their webhooks."""

from collections.abc import Collection

from app import streams
from app.jobs.ending import Ended
from app.queues import Broker


def tell(broker: Broker, ended: Collection[Ended]) -> None:
    """Say that these jobs have ended; a broker that is away costs their readers some seconds."""
    if not ended:
        return
    broker.publish([(streams.ENDED, str(each.job_id)) for each in ended])
    deliveries = [each.delivery_id for each in ended if each.delivery_id is not None]
    if deliveries:
        broker.enqueue_delivery(deliveries[0])
