"""The Celery application and its queues; messages carry a job's id and nothing else.

Each model has a queue of its own, ``generate.<model>``. A message is a hint: PostgreSQL says what
there is to do, so a broker that is down, emptied or doubled costs time, never a job.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from uuid import UUID

import structlog
from celery import Celery
from kombu.transport.redis import Channel
from redis import Redis, TimeoutError
from redis.backoff import NoBackoff
from redis.client import Pipeline
from redis.retry import Retry

from app.config import Settings
from app.messages import encode

log = structlog.get_logger(__name__)

GENERATE_PREFIX = "generate."
WEBHOOKS = "webhooks"
MAINTENANCE = "maintenance"

# Tasks are named here, where they are sent, and implemented in ``workers``.
GENERATE_TASK = "generate"
DELIVER_TASK = "deliver"
SWEEP_TASK = "sweep"
BATCH_TASK = "batch"

_SILENCE_SECONDS = 3.0  # without publishing, after a publish that failed
# A connection that packets no longer pass through shows no error: a worker whose broker answers
# nothing for a second and this time (kombu looks as often) makes another, 11 s later at most.
_CHECK_SECONDS = 5
_PING_SECONDS = 1.0  # without an announcement, before a listener asks whether anybody is there

# kombu must not put back the messages of jobs in hand: 5.7 ends the worker when the broker is away.
# The lease in PostgreSQL is what brings a lost job back.
Channel.do_restore = False


def generate_queue(model: str) -> str:
    """The queue of a model."""
    return GENERATE_PREFIX + model


def make_celery(settings: Settings) -> Celery:
    """The Celery application, for workers and for publishers."""
    celery = Celery("gptqueue", broker=settings.redis_url)
    celery.conf.update(
        task_serializer="json",
        accept_content=["json"],
        task_ignore_result=True,
        task_acks_late=True,
        task_default_queue=MAINTENANCE,
        worker_prefetch_multiplier=1,
        worker_send_task_events=True,
        worker_hijack_root_logger=False,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_transport_options={
            # kombu's own book of unacknowledged messages redelivers late and twice, and a job that
            # ends on a newer connection than it began on ends its worker; see docs/architecture.md.
            "ack_emulation": False,
            # Without these a publish to a dead broker waits for ever.
            "socket_timeout": settings.broker_timeout_seconds,
            "socket_connect_timeout": settings.broker_timeout_seconds,
            "socket_keepalive": True,
            "health_check_interval": _CHECK_SECONDS,
            "max_retries": 1,
            "interval_start": 0,
            "interval_step": 0.1,
        },
        beat_schedule={
            "sweep": {
                "task": SWEEP_TASK,
                "schedule": settings.sweep_seconds,
                "options": {"queue": MAINTENANCE, "expires": settings.sweep_seconds},
            }
        },
    )
    return celery


class Broker:
    """What the project asks of the broker. Every failure is logged and survived."""

    def __init__(self, settings: Settings) -> None:
        self._silent_until = 0.0
        self._timeout_seconds = settings.broker_timeout_seconds
        self._redis = Redis.from_url(
            settings.redis_url,
            socket_timeout=settings.broker_timeout_seconds,
            socket_connect_timeout=settings.broker_timeout_seconds,
            # Once more, at once: a pooled connection may be older than the broker's last restart.
            retry=Retry(NoBackoff(), 1),
        )

    def enqueue_jobs(self, jobs: Sequence[tuple[str, UUID]]) -> None:
        """Tell the workers of each model that its jobs wait."""
        self._push([(GENERATE_TASK, job_id, generate_queue(model)) for model, job_id in jobs])

    def enqueue_delivery(self, delivery_id: UUID) -> None:
        """Tell the delivery workers that webhooks are due, of which this is one."""
        self._push([(DELIVER_TASK, delivery_id, WEBHOOKS)])

    def enqueue_batch(self, batch_id: UUID) -> None:
        """Tell the maintenance workers that batches have something to do, of which this is one."""
        self._push([(BATCH_TASK, batch_id, MAINTENANCE)])

    def publish(self, messages: Iterable[tuple[str, str]]) -> None:
        """Tell channels something; whoever does not listen now never hears it."""
        pipeline = self._redis.pipeline(transaction=False)
        for channel, message in messages:
            pipeline.publish(channel, message)
        self._send(pipeline)

    def heard(
        self, channels: Sequence[str], until: Callable[[], bool]
    ) -> Iterator[tuple[str, bytes]]:
        """Messages of these channels, each with its channel's name, after ("", b"") when they are
        listened to; raises RedisError when the broker goes away or is silent.
        """
        with self._redis.pubsub() as listener:  # type: ignore[no-untyped-call]
            listener.subscribe(*channels)
            heard = time.monotonic()
            while not until():
                message = listener.get_message(timeout=_PING_SECONDS)
                if message is not None:
                    heard = time.monotonic()
                    if message["type"] == "message":
                        yield message["channel"].decode(), message["data"]
                    elif message["type"] == "subscribe" and message["data"] == len(channels):
                        yield "", b""
                elif time.monotonic() > heard + _PING_SECONDS + self._timeout_seconds:
                    raise TimeoutError("the broker does not answer")
                else:
                    listener.ping()

    def depth(self, queue: str) -> int:
        """Messages in a queue; raises RedisError."""
        return self._redis.llen(queue)

    def depths(self, models: Iterable[str]) -> dict[str, int]:
        """Messages in each model's queue; raises RedisError."""
        names = list(models)
        pipeline = self._redis.pipeline(transaction=False)
        for name in names:
            pipeline.llen(generate_queue(name))
        return dict(zip(names, pipeline.execute(), strict=True))

    def _push(self, messages: Sequence[tuple[str, UUID, str]]) -> None:
        pipeline = self._redis.pipeline(transaction=False)
        for task, row_id, queue in messages:
            pipeline.lpush(queue, encode(task, row_id, queue))
        self._send(pipeline)

    def _send(self, pipeline: Pipeline) -> None:
        """Send, or not: the rows are committed, and the sweep sends what is missing."""
        started = time.monotonic()
        messages = len(pipeline)  # which is none once they were sent
        if not messages or started < self._silent_until:
            return
        try:
            pipeline.execute()
        except Exception as error:  # whatever it is, the caller's work is done and must stay so
            # A broker that hangs must not make every request wait for its time-out.
            ended = time.monotonic()
            self._silent_until = ended + _SILENCE_SECONDS + 2 * (ended - started)
            log.warning("publish_failed", messages=messages, error=str(error))
