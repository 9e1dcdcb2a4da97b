"""Whatever becomes of the broker, every accepted job ends, and once.

``PROMISE_JOBS=1000 scripts/test tests/acceptance/test_promise_broker.py`` for more of it.
"""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests
from redis import Redis

from scripts.stack import valkey
from tests.acceptance.promises import STEADY, Account, catalog, new_keys, open_account
from tests.acceptance.stack import Json, Part, Stack, eventually
from tests.wire import Wire

pytestmark = pytest.mark.usefixtures("api", "sweeping", "worker")

JOBS = int(os.environ.get("PROMISE_JOBS", "300"))
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
    return stack.api()


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


def test_half_open_connections_are_given_up_by_all_that_use_the_broker(
    account: Account, wire: Wire, api: Part, worker: Part
) -> None:
    job_ids = submit(account, 1)
    account.until_all_ended()
    failed = len(api.events("publish_failed"))

    wire.leave_half_open()
    job_ids += submit(account, 2)

    assert end_of(account, job_ids[-1]) == "succeeded"
    assert broker_is_ok(account)
    account.assert_each_succeeded_once(job_ids)
    assert len(api.events("publish_failed")) == failed
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
    with ThreadPoolExecutor(1) as threads:
        end = threads.submit(end_of, account, job_ids[-1])
        wire.mend()
        assert end.result() == "succeeded"

    eventually(lambda: broker_is_ok(account), "the status is well again")
    job_ids += submit(account, 2)
    account.assert_each_succeeded_once(job_ids)
    assert worker.process.poll() is None


def end_of(account: Account, job_id: str) -> str:
    """How a client that waits for a job is told that it ended, within the minute it may wait."""
    return get(account, f"jobs/{job_id}", Prefer="wait=60")["status"]


def broker_is_ok(account: Account) -> bool:
    return get(account, "status")["broker"]["ok"]


def get(account: Account, path: str, **headers: str) -> Json:
    headers["Authorization"] = f"Bearer {account.key}"
    with requests.Session() as session:
        session.trust_env = False
        url = f"{account.url}/api/v1/{path}"
        return session.get(url, headers=headers, timeout=90).json()
