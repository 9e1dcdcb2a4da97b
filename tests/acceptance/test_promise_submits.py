"""What was accepted ends, once, and is paid once: whatever kills the API, and however many ask.

``PROMISE_SUBMITS=500 scripts/test tests/acceptance/test_promise_submits.py`` for more of it.
"""

import os
from collections import Counter

import pytest

from tests.acceptance.crashing import POINTS, arm
from tests.acceptance.promises import (
    FAST,
    Account,
    Answer,
    catalog,
    crash_file,
    new_keys,
    open_account,
    start_api,
)
from tests.acceptance.stack import Part, Stack, answers, eventually

pytestmark = pytest.mark.usefixtures("api", "sweeping")

SUBMITS = int(os.environ.get("PROMISE_SUBMITS", "16"))
AT_ONCE = 8
HELD = 3 * 1 + 5 * 2  # three words in, five tokens out, at one and two micros


@pytest.fixture(scope="module")
def api(stack: Stack) -> Part:
    """In place of the plain one; the model "lonely" has no worker."""
    stack.settings.catalog_file.write_text(catalog(fake=FAST, lonely=FAST))
    return start_api(stack)


@pytest.fixture
def account(stack: Stack) -> Account:
    return open_account(stack)


def submit_until_answered(account: Account, key: str) -> Answer:
    """What a client does whose connection broke: the same again."""
    return eventually(lambda: account.submit(key), "an answer")


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.usefixtures("worker")
def test_an_api_that_is_killed_while_it_submits_loses_no_job_and_bills_none_twice(
    stack: Stack, account: Account, point: str
) -> None:
    accepted = {}
    for _ in range(0, SUBMITS, AT_ONCE):
        keys = new_keys(AT_ONCE)
        arm(crash_file(stack), point)
        first = account.submit_at_once(keys)
        assert not crash_file(stack).exists()
        assert None in first
        for key, answer in zip(keys, first, strict=True):
            again = submit_until_answered(account, key)
            assert again.status == 202
            if answer is not None:
                assert (answer.status, again.json["id"]) == (202, answer.json["id"])
                assert again.replayed
            accepted[key] = again.json["id"]

    account.assert_each_succeeded_once(accepted.values())


@pytest.mark.parametrize("point", POINTS)
def test_a_submit_whose_answer_was_lost_is_found_with_its_key_or_never_was(
    stack: Stack, account: Account, point: str
) -> None:
    (key,) = new_keys(1)
    arm(crash_file(stack), point)
    assert account.submit(key, model="lonely") is None

    stored = account.read("SELECT id::text FROM jobs WHERE account_id = :account")
    assert len(stored) == (point != "before_commit")
    again = account.submit(key, model="lonely")
    assert again
    assert again.status == 202
    assert again.replayed == (point != "before_commit")
    assert stored in ([], [(again.json["id"],)])
    assert account.statuses() == ["queued"]
    held = account.read("SELECT held_micros FROM balances WHERE account_id = :account")
    assert held == [(HELD,)]


def test_the_same_key_fifty_times_at_once_is_one_job_one_hold_and_fifty_equal_answers(
    stack: Stack, account: Account
) -> None:
    (key,) = new_keys(1)
    answers = account.submit_at_once([key] * 50, model="lonely", max_tokens=4)

    assert all(answers)
    assert {answer.status for answer in answers if answer} == {202}
    assert [answer.replayed for answer in answers if answer].count(False) == 1
    documents = [answer.json for answer in answers if answer]
    assert documents == [documents[0]] * 50
    assert account.statuses() == ["queued"]
    kinds = account.read("SELECT kind FROM transfers WHERE account_id = :account ORDER BY id")
    assert kinds == [("grant",), ("hold",)]

    others = account.submit_at_once([key] * 10, model="lonely", max_tokens=5)
    refusals = Counter((answer.status, answer.json["code"]) for answer in others if answer)
    assert refusals == {(422, "idempotency_key_reused"): 10}
    assert account.statuses() == ["queued"]

    neighbour = open_account(stack)
    (theirs,) = neighbour.submit_at_once([key], model="lonely", max_tokens=5)
    assert theirs
    assert (theirs.status, theirs.replayed) == (202, False)
    assert theirs.json["id"] != documents[0]["id"]


def test_credit_for_ten_jobs_accepts_ten_of_two_hundred_at_once(stack: Stack) -> None:
    account = open_account(stack, credit_micros=10 * HELD)

    answers = account.submit_at_once(new_keys(200), model="lonely")

    assert Counter(answer and answer.status for answer in answers) == {202: 10, 402: 190}
    assert account.statuses() == ["queued"] * 10
    balance = "SELECT available_micros, held_micros FROM balances WHERE account_id = :account"
    assert account.read(balance) == [(0, 10 * HELD)]


def test_the_price_is_the_one_at_submit_when_the_catalog_changes_while_the_job_waits(
    stack: Stack, account: Account, api: Part
) -> None:
    before = account.submit(model="lonely")
    assert before
    file = stack.settings.catalog_file
    file.write_text(file.read_text().replace("2_000_000", "1_000_000"))
    api.stop()
    api.start()
    eventually(lambda: answers(f"{account.url}/api/v1/health"), "the API is up again")
    after = account.submit(model="lonely")
    assert after
    stack.worker("lonely")

    account.assert_each_succeeded_once([before.json["id"], after.json["id"]])
    charged = account.read(
        "SELECT charged_micros FROM charges WHERE account_id = :account ORDER BY job_id"
    )
    assert charged == [(3 * 1 + 5 * 2,), (3 * 1 + 5 * 1,)]
