"""A worker that is to stop ends by itself; what it had in hand is done, and paid once."""

import signal
import threading
from pathlib import Path

import pytest

from tests.acceptance.crashing import ENGINE_POINT, arm
from tests.acceptance.promises import (
    FAST,
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

GRACE_SECONDS = 5
# Long after a test has lost its patience: nothing here is put right by a lease that runs out.
LEASE = {"GPTQUEUE_LEASE_SECONDS": "600"}


@pytest.fixture(scope="module")
def api(stack: Stack) -> Part:
    """In place of the one with other models."""
    stack.settings.catalog_file.write_text(catalog(steady=STEADY, fast=FAST, fragile=STEADY))
    return stack.api()


@pytest.fixture(scope="module")
def at_once(stack: Stack) -> Path:
    """A catalog with the same models, all of them fast."""
    file = stack.folder / "at_once.toml"
    file.write_text(catalog(steady=FAST, fast=FAST, fragile=FAST))
    return file


@pytest.fixture
def account(stack: Stack) -> Account:
    return open_account(stack)


def start(stack: Stack, name: str, model: str, **environment: str) -> Part:
    worker = start_worker(stack, name, f"generate.{model}", **LEASE, **environment)
    ready(worker)
    return worker


def test_what_ends_within_the_grace_is_finished_and_the_rest_is_handed_to_another_worker(
    stack: Stack, account: Account, at_once: Path
) -> None:
    grace = {"GPTQUEUE_SHUTDOWN_GRACE_SECONDS": str(GRACE_SECONDS)}
    leaving = start(stack, "leaving", "steady", **grace)
    long = submit(account, 2, model="steady", max_tokens=4000)  # three minutes
    short = submit(account, 2, model="steady", max_tokens=40)  # two seconds
    running_on(account, 4)

    leaving.process.send_signal(signal.SIGTERM)
    eventually(lambda: leaving.events("worker_stopping"), "it heard of it")
    late = submit(account, model="steady", max_tokens=1)
    eventually(lambda: leaving.process.poll() is not None, "it ends by itself")
    assert leaving.process.poll() == 0

    start(stack, "taking", "steady", GPTQUEUE_CATALOG_FILE=str(at_once))
    account.assert_each_succeeded_once([*long, *short, *late])
    assert sorted(attempts(account)) == [
        *[("leaving", "handed_back")] * 2,
        *[("leaving", "succeeded")] * 2,
        *[("taking", "succeeded")] * 3,
    ]


def test_a_job_that_is_claimed_while_its_worker_stops_is_not_lost(
    stack: Stack, account: Account
) -> None:
    leaving = start(stack, "hasty", "fast", GPTQUEUE_SHUTDOWN_GRACE_SECONDS="0")
    job_ids: list[str] = []
    enough = threading.Event()

    def keep_submitting() -> None:
        while not enough.is_set():
            job_ids.extend(submit(account, 4, model="fast"))

    submitting = threading.Thread(target=keep_submitting)
    submitting.start()
    try:
        eventually(lambda: "succeeded" in account.statuses(), "it works")
        leaving.process.send_signal(signal.SIGTERM)
        eventually(lambda: leaving.process.poll() is not None, "it ends by itself")
    finally:
        enough.set()
        submitting.join()

    start(stack, "ready", "fast")
    account.assert_each_succeeded_once(job_ids)
    assert {outcome for _, outcome in attempts(account)} <= {"handed_back", "succeeded"}


def test_a_worker_whose_engine_died_for_good_hands_its_jobs_on_and_ends_with_an_error(
    stack: Stack, account: Account, at_once: Path
) -> None:
    dying = start(stack, "dying", "fragile")
    job_ids = submit(account, 2, model="fragile", max_tokens=4000)
    running_on(account, 2)

    arm(crash_file(stack), ENGINE_POINT)
    job_ids += submit(account, model="fragile", max_tokens=4000)
    eventually(lambda: dying.process.poll() is not None, "it ends by itself")
    assert dying.process.poll() == 1

    start(stack, "heir", "fragile", GPTQUEUE_CATALOG_FILE=str(at_once))
    account.assert_each_succeeded_once(job_ids)
    assert sorted(attempts(account)) == [
        *[("dying", "handed_back")] * 3,
        *[("heir", "succeeded")] * 3,
    ]
