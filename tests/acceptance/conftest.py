"""GPTQueue as real processes. Starting costs seconds, so the tests of a module share them."""

from collections.abc import Iterator

import pytest
from redis import Redis

from scripts.stack import valkey
from tests.acceptance.stack import Client, Part, Stack, create, eventually

MODEL = """
[models.{name}]
enabled = true
context_length = 5000
default_max_tokens = 20
input_price_micros = 1_000_000
output_price_micros = 2_000_000
version = "1"
[models.{name}.versions.1]
source = "{source}"
engine = "fake"
"""
# Each request at 20 tokens a second, however many there are: a job's max_tokens say how long it
# takes. Models of their own for tests that must know who works on them.
STEADY = "fake:tokens_per_second=20&answer_tokens=4000"
CATALOG = "".join(
    [
        MODEL.format(name="fake", source=STEADY),
        MODEL.format(name="lonely", source=STEADY),
        MODEL.format(name="fragile", source=STEADY),
        MODEL.format(name="smollm2-135m", source="fake:tokens_per_second=300"),
        MODEL.format(name="broken", source="fake:fail_at_load=1"),
        MODEL.format(name="tuned", source="adapter").replace('engine = "fake"', 'base = "lonely"'),
    ]
)


@pytest.fixture(scope="module")
def stack(
    module_database_url: str, valkey_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stack]:
    """Servers and settings for processes; what a test starts runs until the module's end."""
    with Redis.from_url(valkey_url) as redis:
        redis.flushall()
    made = create(
        tmp_path_factory.mktemp("stack"),
        database_url=module_database_url,
        redis_url=valkey_url,
        catalog=CATALOG,
    )
    with made.opened():
        yield made


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> valkey.Broker:
    """Where a broker of the module's own is."""
    return valkey.create(tmp_path_factory.mktemp("valkey"))


@pytest.fixture(scope="module")
def broker(server: valkey.Broker) -> Iterator[Part]:
    """The same, running; to be stopped and started."""
    part = Part(server.command(), server.folder / "log")
    part.start()
    eventually(server.ready, "the broker is up")
    yield part
    part.stop()


@pytest.fixture(scope="module")
def api(stack: Stack) -> Part:
    """The running API."""
    return stack.api()


@pytest.fixture(scope="module")
def sweeping(stack: Stack) -> Part:
    """The running delivery worker, with beat."""
    stack.beat()
    return stack.delivery()


@pytest.fixture(scope="module")
def worker(stack: Stack) -> Part:
    """A running worker of the model "fake"."""
    return stack.worker("fake")


@pytest.fixture
def me(stack: Stack, api: Part) -> Client:
    """A new account with credit, and the API to use it at."""
    return stack.open_account()
