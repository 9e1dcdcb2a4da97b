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
    catalog,
    crash_file,
    new_keys,
    open_account,
    ready,
    start_worker,
)
from tests.acceptance.stack import Part, Stack, eventually

pytestmark = pytest.mark.usefixtures("api", "sweeping")

LEASE_SECONDS = 4  # as in tests/acceptance/stack.py
MAX_ATTEMPTS = 2
Workers = dict[str, Part]


@pytest.fixture(scope="module")
def api(stack: Stack) -> Part:
    """In place of the one with other models."""
    stack.settings.catalog_file.write_text(catalog(fake=STEADY, leaving=STEADY))
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


def submit(account: Account, number: int = 1, **body: object) -> list[str]:
    """Submit at once; the ids of the jobs."""
    answers = account.submit_at_once(new_keys(number), **body)
    assert all(answer and answer.status == 202 for answer in answers)
    return [answer.json["id"] for answer in answers if answer]


def attempts(account: Account) -> list[tuple[object, ...]]:
    """Worker and outcome of every attempt."""
    return account.read(
        "SELECT split_part(worker, '@', 1), outcome FROM attempts WHERE account_id = :account "
        "ORDER BY job_id, number"
    )


def running_on(account: Account, number: int) -> str:
    """The worker that has these jobs in hand, all of them."""

    def look() -> list[tuple[object, ...]]:
        now = attempts(account)
        return now if [outcome for _, outcome in now] == ["running"] * number else []

    names = {str(name) for name, _ in eventually(look, "the jobs run")}
    assert len(names) == 1, names
    return names.pop()


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
    job_ids = submit(account, max_tokens=60)
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


def test_a_busy_worker_that_is_asked_to_stop_ends_what_it_can_and_others_do_the_rest(
    stack: Stack, account: Account
) -> None:
    leaving = start_worker(stack, "leaving", "generate.leaving")
    ready(leaving)
    long = submit(account, 2, model="leaving", max_tokens=40)
    short = submit(account, 2, model="leaving", max_tokens=15)
    running_on(account, 4)

    leaving.process.send_signal(signal.SIGTERM)
    eventually(lambda: account.statuses().count("succeeded") == 2, "the short jobs end")
    late = submit(account, model="leaving", max_tokens=1)
    leaving.kill()  # what a supervisor does when the grace is over
    assert outcomes_of(account) == {
        **dict.fromkeys(short, "succeeded"),
        **dict.fromkeys(long, "running"),
    }
    leaving.start()

    account.assert_each_succeeded_once([*long, *short, *late])


def outcomes_of(account: Account) -> dict[object, object]:
    """How each job's only attempt ended."""
    rows = account.read(
        "SELECT job_id::text, min(outcome) FROM attempts WHERE account_id = :account "
        "GROUP BY job_id HAVING count(*) = 1"
    )
    return dict(rows)
