"""Whatever becomes of a worker, its jobs are done by another one, and paid for once."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from tests.acceptance.crashing import POISON, WORKER_POINTS, arm
from tests.acceptance.promises import (
    STEADY,
    Account,
    attempts,
    catalog,
    crash_file,
    open_account,
    ready,
    running_on,
    start_worker,
    submit,
)
from tests.acceptance.stack import Part, Stack, eventually

pytestmark = pytest.mark.usefixtures("api", "sweeping")

LEASE_SECONDS = 4  # as in tests/acceptance/stack.py
MAX_ATTEMPTS = 2
Workers = dict[str, Part]


@pytest.fixture(scope="module")
def api(stack: Stack) -> Part:
    """In place of the one with other models."""
    stack.settings.catalog_file.write_text(catalog(fake=STEADY))
    stack.environment["GPTQUEUE_MAX_ATTEMPTS"] = str(MAX_ATTEMPTS)
    return stack.api()


@pytest.fixture(scope="module")
def two_workers(stack: Stack) -> Workers:
    return {name: start_worker(stack, name, "generate.fake") for name in ("one", "two")}


@pytest.fixture
def workers(two_workers: Workers) -> Workers:
    """Two workers of the model "fake", whatever the last test did to them."""
    restart_the_dead(two_workers)
    ready(*two_workers.values())
    return two_workers


def restart_the_dead(workers: Workers) -> bool:
    """As a supervisor would; whether there was one."""
    dead = [part for part in workers.values() if part.process.poll() is not None]
    for part in dead:
        part.log.unlink()
        part.start()
    return bool(dead)


@pytest.fixture
def account(stack: Stack) -> Account:
    return open_account(stack)


def assert_done_within_twice_the_lease(account: Account, job_ids: list[str]) -> None:
    account.assert_each_succeeded_once(job_ids)
    longest = account.read(
        "SELECT max(a.started_at - j.created_at) > make_interval(secs => 2 * "
        f"{LEASE_SECONDS}) FROM jobs j JOIN attempts a ON a.job_id = j.id "
        "WHERE j.account_id = :account"
    )
    assert longest == [(False,)]


@pytest.mark.parametrize("point", WORKER_POINTS)
def test_what_a_worker_had_in_hand_when_it_was_killed_starts_elsewhere_within_twice_the_lease(
    stack: Stack, workers: Workers, account: Account, point: str
) -> None:
    arm(crash_file(stack), point)
    job_ids = submit(account, 3, max_tokens=2)
    eventually(lambda: restart_the_dead(workers), "a worker was killed")

    assert_done_within_twice_the_lease(account, job_ids)
    ended_before = [outcome for _, outcome in attempts(account)].count("succeeded")
    assert ended_before == len(job_ids)


def test_a_worker_that_stood_still_for_longer_than_its_lease_changes_nothing_afterwards(
    workers: Workers, account: Account
) -> None:
    job_ids = submit(account, max_tokens=100)  # 5 s: the other runs while the zombie is refused
    name = running_on(account, 1)
    (other,) = workers.keys() - {name}

    with frozen(account, workers[name]):
        taken_over = [(name, "lost"), (other, "running")]
        eventually(lambda: attempts(account) == taken_over, "another worker has it")
    eventually(lambda: workers[name].events("result_discarded"), "the zombie was refused")

    assert account.statuses() == ["running"]
    account.assert_each_succeeded_once(job_ids)
    assert attempts(account) == [(name, "lost"), (other, "succeeded")]
    assert workers[name].process.poll() is None


@contextmanager
def frozen(account: Account, worker: Part) -> Iterator[None]:
    """The worker stands still, and not in the middle of a transaction."""
    group = worker.process.pid
    os.killpg(group, signal.SIGSTOP)
    try:
        while in_transaction(account):
            os.killpg(group, signal.SIGCONT)
            os.killpg(group, signal.SIGSTOP)
        yield
    finally:
        os.killpg(group, signal.SIGCONT)


def in_transaction(account: Account) -> bool:
    """Whether somebody has stopped in one: those of the others take no time."""
    time.sleep(0.2)
    return bool(
        account.read(
            "SELECT 1 FROM pg_stat_activity WHERE state LIKE 'idle in transaction%' "
            "AND clock_timestamp() - state_change > interval '0.1 seconds' "
            "AND datname = current_database() AND :account IS NOT NULL"
        )
    )


def test_a_job_that_kills_every_worker_that_takes_it_is_failed_and_costs_nothing(
    workers: Workers, account: Account
) -> None:
    (job_id,) = submit(account, prompt=POISON)

    eventually(supervised(workers, account, "failed"), "the job was given up")

    assert [outcome for _, outcome in attempts(account)] == ["lost"] * MAX_ATTEMPTS
    jobs = account.read(
        "SELECT id::text, error_code, attempt FROM jobs WHERE account_id = :account"
    )
    assert jobs == [(job_id, "worker_lost", MAX_ATTEMPTS)]
    charges = account.read("SELECT state, charged_micros FROM charges WHERE account_id = :account")
    assert charges == [("released", 0)]
    balance = "SELECT available_micros, held_micros FROM balances WHERE account_id = :account"
    assert account.read(balance) == [(1_000_000, 0)]


def supervised(workers: Workers, account: Account, status: str) -> Callable[[], bool]:
    """Keep the workers up; whether all jobs have this status."""

    def look() -> bool:
        restart_the_dead(workers)
        return set(account.statuses()) == {status}

    return look
