"""A broker that cannot be reached on the connections that there are, or on any."""

import queue
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit
from uuid import uuid4

import pytest
from redis import Redis
from redis.exceptions import RedisError

from app import queues
from app.config import Settings
from app.queues import Broker
from tests.wire import Wire

AT_ONCE = 4
TIMEOUT_SECONDS = 1.0
PATIENCE_SECONDS = 30


@pytest.fixture
def wire(valkey_url: str) -> Iterator[Wire]:
    """What connects the broker below with the real one."""
    with Wire(urlsplit(valkey_url).port or 6379) as wire:
        yield wire


@pytest.fixture
def broker(valkey_url: str, wire: Wire) -> Broker:
    """The real one, at the other end of the wire."""
    url = valkey_url.replace(f":{urlsplit(valkey_url).port}", f":{wire.port}")
    return Broker(Settings(redis_url=url, broker_timeout_seconds=TIMEOUT_SECONDS))


@pytest.fixture
def arrived(valkey_url: str) -> Iterator[Redis]:
    """The same broker without a wire, and without messages."""
    with Redis.from_url(valkey_url) as redis:
        redis.flushall()
        yield redis


def publish(broker: Broker, number: int = AT_ONCE) -> None:
    """As that many threads at once, each on a connection of its own."""
    gate = threading.Barrier(number)

    def one(_: int) -> None:
        gate.wait(PATIENCE_SECONDS)
        broker.enqueue_jobs([("fake", uuid4())])

    with ThreadPoolExecutor(number) as threads:
        list(threads.map(one, range(number)))


def test_a_publisher_gives_up_half_open_connections_without_losing_a_message(
    broker: Broker, wire: Wire, arrived: Redis
) -> None:
    publish(broker)
    wire.leave_half_open()
    publish(broker)
    publish(broker)
    assert arrived.llen("generate.fake") == 3 * AT_ONCE


def test_a_publisher_resumes_after_a_time_in_which_nothing_came_through(
    broker: Broker, wire: Wire, arrived: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queues, "_SILENCE_SECONDS", 0)  # leaves twice the time that it took to fail
    publish(broker, 1)
    wire.cut()
    publish(broker, 1)
    with pytest.raises(RedisError):
        broker.depths(["fake"])
    wire.mend()
    deadline = time.monotonic() + PATIENCE_SECONDS
    while broker.depths(["fake"]) == {"fake": 1}:
        assert time.monotonic() < deadline
        publish(broker, 1)
    assert arrived.llen("generate.fake") == 2


CHANNEL = "gptqueue.test"


class Listener(threading.Thread):
    """Hears a channel, as each process of the API does, until the broker is given up."""

    def __init__(self, broker: Broker) -> None:
        super().__init__()
        self.heard: queue.Queue[bytes] = queue.Queue()
        self.stopping = threading.Event()
        self._broker = broker
        self.error: Exception | None = None
        self.start()

    def run(self) -> None:
        try:
            for _, message in self._broker.heard([CHANNEL], self.stopping.is_set):
                self.heard.put(message)
        except RedisError as error:
            self.error = error


@pytest.fixture
def listener(broker: Broker, arrived: Redis) -> Iterator[Listener]:
    """A listener that has heard something."""
    listener = Listener(broker)
    listener.heard.get(timeout=PATIENCE_SECONDS)  # it listens now
    yield listener
    listener.stopping.set()
    listener.join()


def test_a_listener_that_has_nothing_to_hear_stays(listener: Listener) -> None:
    listener.join(queues._PING_SECONDS * 2 + TIMEOUT_SECONDS * 2 + 1)
    assert listener.is_alive()


@pytest.mark.parametrize("harm", [Wire.leave_half_open, Wire.cut])
def test_a_listener_whose_broker_falls_silent_gives_up(
    listener: Listener, wire: Wire, harm: Callable[[Wire], None]
) -> None:
    harm(wire)
    listener.join(PATIENCE_SECONDS)
    assert isinstance(listener.error, RedisError)
