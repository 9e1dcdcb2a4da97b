"""A webhook arrives wherever its sender is killed: at least once, always under the same id."""

from collections.abc import Iterator

import pytest

from tests.acceptance.crashing import DELIVERY_POINTS, arm
from tests.acceptance.inbox import Inbox
from tests.acceptance.promises import (
    STEADY,
    Account,
    catalog,
    crash_file,
    open_account,
    start_worker,
)
from tests.acceptance.stack import Part, Stack, eventually

# How often the receiver sees the webhook, and how many attempts there are.
SEEN = {
    "delivery_unclaimed": (1, 1),
    "delivery_claimed": (1, 2),
    "delivery_sent": (2, 2),
    "delivery_unmarked": (2, 2),
    "delivery_marked": (1, 1),
}


@pytest.fixture(scope="module")
def api(stack: Stack) -> Part:
    """In place of the one with other models."""
    stack.settings.catalog_file.write_text(catalog(fake=STEADY))
    return stack.api()


@pytest.fixture(scope="module")
def courier(stack: Stack, api: Part) -> Part:
    """The delivery worker, with beat."""
    stack.beat()
    return start_worker(stack, "delivery", "webhooks,maintenance")


@pytest.fixture
def account(stack: Stack) -> Account:
    return open_account(stack)


@pytest.fixture
def inbox() -> Iterator[Inbox]:
    with Inbox() as made:
        yield made


def cancel_one(account: Account, inbox: Inbox) -> None:
    """A job that has ended and wants to be told of; no other worker takes part in that."""
    answer = account.submit(webhook_url=f"http://{inbox.address}/")
    assert answer
    assert account.act(f"jobs/{answer.json['id']}/cancel").json["status"] == "cancelled"


def delivery(account: Account) -> tuple[object, ...]:
    """Its state, its attempts, and its id as receivers see it."""
    rows = account.read(
        "SELECT state, attempts, 'msg_' || replace(id::text, '-', '') "
        "FROM webhook_deliveries WHERE account_id = :account"
    )
    return rows[0] if rows else ("", 0, "")


def let_the_lease_pass(account: Account) -> None:
    """In place of waiting half a minute: what the dead sender had claimed is due now."""
    account.read(
        "UPDATE webhook_deliveries SET next_attempt_at = now() "
        "WHERE account_id = :account AND state = 'pending' RETURNING id"
    )


@pytest.mark.parametrize("point", SEEN)
def test_a_sender_killed_at_any_point_is_replaced_and_what_it_had_arrives_under_the_same_id(
    stack: Stack, courier: Part, account: Account, inbox: Inbox, point: str
) -> None:
    assert list(SEEN) == DELIVERY_POINTS
    arm(crash_file(stack), point)
    cancel_one(account, inbox)
    eventually(lambda: courier.process.poll() is not None, "the sender was killed")
    let_the_lease_pass(account)
    courier.start()
    eventually(lambda: delivery(account)[0] == "delivered", "it is delivered")
    _, attempts, message = delivery(account)
    assert (len(inbox.posted), attempts) == SEEN[point]
    assert {posted.headers["webhook-id"] for posted in inbox.posted} == {message}
    assert len({posted.body for posted in inbox.posted}) == 1
