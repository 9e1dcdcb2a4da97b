"""Celery's consumer, but that what Flower is told of tasks travels together, four times a second.

Celery collects the events of tasks and sends them at the next turn of its loop, which is nearly one
by one: a quarter of a busy worker's processor time.
"""

from celery.worker import consumer
from kombu.asynchronous.hub import Hub

_SECONDS = 0.25


class Consumer(consumer.Consumer):  # type: ignore[misc]
    """For Celery's setting ``worker_consumer``."""

    def register_with_event_loop(self, hub: Hub) -> None:
        """Called for each connection; Celery ends this timer with the connection."""
        super().register_with_event_loop(hub)
        hub.call_repeatedly(_SECONDS, self._flush_events)

    def on_send_event_buffered(self) -> None:
        """Nothing: the timer sends it."""
