"""Whatever becomes of the broker, every accepted job ends, and once."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests
from redis import Redis

from scripts.stack import valkey
from tests.acceptance.promises import (
    STEADY,
    Account,
    catalog,
    new_keys,
    open_account,
    start_worker,
)
from tests.acceptance.stack import Part, Stack, eventually
from tests.acceptance.wire import Wire

pytestmark = pytest.mark.usefixtures("api", "sweeping", "worker")

JOBS = 300
AT_ONCE = 8


@pytest.fixture(scope="module")
def wire(server: valkey.Broker, broker: Part) -> Iterator[Wire]:
    """What connects everybody with the broker."""
    with Wire(server.port) as wire:
        yield wire


@pytest.fixture(scope="module")
def valkey_url(server: valkey.Broker, wire: Wire) -> str:
    """In place of the broker that all other modules share."""
    return server.url.replace(f":{server.port}/", f":{wire.port}/")


@pytest.fixture(scope="module")
def api(stack: Stack) -> Part:
    """In place of the one with other models."""
    stack.settings.catalog_file.write_text(catalog(fake=STEADY))
    stack.environment["GPTQUEUE_BROKER_TIMEOUT_SECONDS"] = "0.5"
    return stack.api()


@pytest.fixture(scope="module")
def sweeping(stack: Stack) -> Part:
    """In place of the one that takes its time to look after its connection, like the next."""
    stack.beat()
    return start_worker(stack, "delivery", "webhooks,maintenance", BROKER_CHECK_SECONDS="3")


@pytest.fixture(scope="module")
def worker(stack: Stack) -> Part:
    return start_worker(stack, "worker", "generate.fake", BROKER_CHECK_SECONDS="3")


@pytest.fixture
def account(stack: Stack) -> Account:
    return open_account(stack)


def submit(account: Account, number: int) -> list[str]:
    """Submit as several clients do; the ids of the jobs."""
    with ThreadPoolExecutor(AT_ONCE) as threads:
        answers = list(threads.map(lambda key: account.submit(key, max_tokens=2), new_keys(number)))
    assert {answer and answer.status for answer in answers} == {202}
    return [answer.json["id"] for answer in answers if answer]


def waits_for_the_model(account: Account) -> bool:
    """Whether the test is in the middle of it."""
    return "queued" in account.statuses()


def test_a_broker_that_is_emptied_and_killed_in_the_middle_of_many_jobs_costs_none_of_them(
    account: Account, server: valkey.Broker, broker: Part, worker: Part
) -> None:
    job_ids = submit(account, JOBS // 3)
    assert waits_for_the_model(account)
    with Redis.from_url(server.url) as redis:
        redis.flushall()
    job_ids += submit(account, JOBS // 3)
    assert waits_for_the_model(account)
    broker.kill()
    job_ids += submit(account, JOBS // 3)
    broker.start()

    account.assert_each_succeeded_once(job_ids)
    tries = account.read("SELECT count(*) FROM attempts WHERE account_id = :account")
    assert tries == [(JOBS,)]
    assert worker.process.poll() is None


def test_when_nothing_comes_through_to_the_broker_any_more_it_shows_and_all_go_on_afterwards(
    account: Account, wire: Wire, worker: Part
) -> None:
    job_ids = submit(account, 1)
    account.until_all_ended()

    wire.cut()
    job_ids += submit(account, 2)
    eventually(lambda: not broker_is_ok(account), "the status says so")
    job_ids += submit(account, 2)
    wire.mend()

    eventually(lambda: broker_is_ok(account), "the status is well again")
    job_ids += submit(account, 2)
    account.assert_each_succeeded_once(job_ids)
    assert worker.process.poll() is None


def broker_is_ok(account: Account) -> bool:
    with requests.Session() as session:
        session.trust_env = False
        return session.get(f"{account.url}/api/v1/status", timeout=60).json()["broker"]["ok"]
