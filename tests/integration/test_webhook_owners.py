"""What becomes of events whose endpoint is disabled, moved or deleted by its owner, or fails."""

import json
import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from flask.testing import FlaskClient
from sqlalchemy import select, text, update

from app.db import Database
from app.webhooks import outbox
from app.webhooks.parcels import Answer
from app.webhooks.tables import Delivery, Endpoint
from tests.conftest import Customer
from tests.integration.conftest import Problem, Receiver, Submit
from tests.integration.hooks import (
    DELIVERIES,
    ENDPOINTS,
    LONG_AGO,
    URL,
    WITHDRAWN,
    create,
    end_one,
    listed,
    read,
)

Deliver = Callable[[], None]


def refuses_to_send(client: FlaskClient, problem: Problem, endpoint: str, ended: str) -> None:
    for path, body in [
        (f"{ENDPOINTS}/{endpoint}/test", None),
        (f"{ENDPOINTS}/{endpoint}/replay", {"since": LONG_AGO}),
        (f"{DELIVERIES}/{ended}/replay", None),
    ]:
        problem(client.post(path, json=body), 409, "webhook_endpoint_disabled")


def test_an_endpoint_that_its_owner_disabled_gets_nothing_not_even_what_waited(
    client: FlaskClient,
    submit: Submit,
    receiver: Receiver,
    deliver: Deliver,
    problem: Problem,
) -> None:
    made = create(client, receiver.url)
    end_one(client, submit)
    shown = client.patch(f"{ENDPOINTS}/{made['id']}", json={"state": "disabled"}).get_json()
    assert (shown["state"], shown["reason"]) == ("disabled", "owner")
    assert shown["disabled"]
    (given_up,) = listed(client)
    assert (given_up["state"], given_up["attempts"]) == ("abandoned", 0)
    assert given_up["last_error"] == WITHDRAWN
    end_one(client, submit)
    assert len(listed(client)) == 1
    refuses_to_send(client, problem, made["id"], given_up["id"])
    shown = client.patch(f"{ENDPOINTS}/{made['id']}", json={"state": "enabled"}).get_json()
    assert (shown["state"], shown["reason"], shown["disabled"]) == ("enabled", None, None)
    client.post(f"{ENDPOINTS}/{made['id']}/replay", json={"since": LONG_AGO})
    end_one(client, submit)
    deliver()
    assert [each["state"] for each in listed(client)] == ["delivered", "delivered"]


def test_an_endpoint_that_is_gone_is_disabled_until_it_is_enabled_and_misses_nothing(
    client: FlaskClient,
    submit: Submit,
    receiver: Receiver,
    deliver: Deliver,
    problem: Problem,
) -> None:
    made = create(client, receiver.url)
    path = f"{ENDPOINTS}/{made['id']}"
    receiver.answers = [(410, {})]
    jobs = [end_one(client, submit)]
    deliver()
    shown = client.get(path).get_json()
    assert (shown["state"], shown["reason"]) == ("disabled", "gone")
    assert (shown["disabled"], shown["failing_since"]) != (None, None)
    jobs.append(end_one(client, submit))
    deliver()
    assert len(receiver.received) == 1
    assert [each["state"] for each in listed(client)] == ["abandoned", "abandoned"]
    refuses_to_send(client, problem, made["id"], listed(client)[0]["id"])
    assert client.patch(path, json={"state": "enabled"}).get_json()["state"] == "enabled"
    assert client.post(f"{path}/replay", json={"since": LONG_AGO}).get_json()["replayed"] == 2
    deliver()
    assert [each["state"] for each in listed(client)] == ["delivered", "delivered"]
    sent = [json.loads(body)["data"]["id"] for _, _, body in receiver.received]
    assert sorted(sent) == sorted([jobs[0], *jobs])


def test_five_days_of_failure_disable_an_endpoint_too(
    client: FlaskClient, receiver: Receiver, deliver: Deliver, database: Database
) -> None:
    made = create(client, receiver.url)
    path = f"{ENDPOINTS}/{made['id']}"
    client.post(f"{path}/test")
    receiver.answers = [(500, {})] * 2
    deliver()
    shown = client.get(path).get_json()
    assert (shown["state"], shown["failing_since"] is None) == ("enabled", False)
    with database.transaction() as session:
        session.execute(text("UPDATE webhook_endpoints SET failing_since = now() - interval '5d'"))
    deliver()
    shown = client.get(path).get_json()
    assert (shown["state"], shown["reason"]) == ("disabled", "failing")
    # Elsewhere it has not failed.
    moved = client.patch(path, json={"url": f"{receiver.url}2"}).get_json()
    assert (moved["state"], moved["failing_since"]) == ("enabled", None)


def test_what_waits_moves_with_its_endpoint_and_so_does_what_is_replayed(
    client: FlaskClient, submit: Submit, receiver: Receiver, deliver: Deliver, closed_port: int
) -> None:
    made = create(client, f"http://127.0.0.1:{closed_port}/")
    path = f"{ENDPOINTS}/{made['id']}"
    end_one(client, submit)
    deliver()
    client.patch(path, json={"url": f"{receiver.url}&moved"})
    deliver()
    (told,) = listed(client)
    assert (told["state"], told["url"]) == ("delivered", f"{receiver.url}&moved")
    client.patch(path, json={"url": f"{receiver.url}&again"})
    assert client.post(f"{DELIVERIES}/{told['id']}/replay").get_json()["url"].endswith("&again")
    deliver()
    assert [path for path, _, _ in receiver.received] == ["/hook?a=b&moved", "/hook?a=b&again"]


def test_a_deleted_endpoint_gets_nothing_more_and_its_log_can_be_read(
    client: FlaskClient, submit: Submit, receiver: Receiver, deliver: Deliver, problem: Problem
) -> None:
    made = create(client, receiver.url)
    path = f"{ENDPOINTS}/{made['id']}"
    end_one(client, submit)
    deliver()
    end_one(client, submit)
    answer = client.delete(path)
    assert (answer.status_code, answer.data) == (204, b"")
    problem(client.get(path), 404, "webhook_endpoint_not_found")
    problem(client.delete(path), 404, "webhook_endpoint_not_found")
    deliver()
    assert len(receiver.received) == 1
    waited, arrived = listed(client, f"endpoint={made['id']}")
    assert (waited["state"], waited["last_error"]) == ("abandoned", WITHDRAWN)
    assert len(read(client, arrived["id"])["log"]) == 1
    answer = client.post(f"{DELIVERIES}/{arrived['id']}/replay")
    problem(answer, 404, "webhook_endpoint_not_found")


@pytest.mark.parametrize("change", ["UPDATE", "DELETE"])
def test_what_an_end_records_while_its_endpoint_goes_is_never_sent(
    client: FlaskClient,
    submit: Submit,
    receiver: Receiver,
    deliver: Deliver,
    database: Database,
    change: str,
) -> None:
    create(client, receiver.url)
    end_one(client, submit)
    statement = {
        "UPDATE": "UPDATE webhook_subscriptions SET state = 'disabled', disabled_at = now()",
        "DELETE": "DELETE FROM webhook_subscriptions",
    }[change]
    with database.transaction() as session:
        session.execute(text(statement))  # and nothing else, as if that came a moment later
    deliver()
    assert receiver.received == []
    (told,) = listed(client)
    assert (told["state"], told["attempts"]) == ("abandoned", 0)
    assert told["last_error"] == WITHDRAWN


def test_what_is_in_flight_when_its_endpoint_goes_ends_as_it_is_answered(
    client: FlaskClient, submit: Submit, database: Database
) -> None:
    made = create(client)
    for _ in range(2):
        end_one(client, submit)
    with database.transaction() as session:
        claimed = outbox.claim(session, limit=2, room=lambda _: 2, lease_seconds=30)
    accepted, refused = claimed.parcels
    client.delete(f"{ENDPOINTS}/{made['id']}")
    sent = [(accepted, Answer(status=200)), (refused, Answer(status=500))]
    with database.transaction() as session:
        assert outbox.mark(session, sent, lease_seconds=30) == ["delivered", "pending"]


@pytest.mark.timeout(120)
def test_couriers_and_owners_who_meet_do_not_wait_for_each_other_in_a_circle(
    client: FlaskClient,
    client_of: Callable[[Customer], FlaskClient],
    customer: Customer,
    submit: Submit,
    database: Database,
) -> None:
    endpoints = [create(client, f"{URL}/{number}")["id"] for number in range(4)]
    for _ in range(30):
        end_one(client, submit)
    over, faults = threading.Event(), list[object]()

    def again(step: Callable[[], object]) -> Callable[[], None]:
        def run() -> None:
            try:
                while not over.is_set():
                    step()
            except Exception as error:
                faults.append(error)

        return run

    def carry() -> None:
        with database.transaction() as session:
            pending = select(Delivery.id).where(Delivery.state == "pending")
            session.execute(
                update(Delivery)
                .where(Delivery.id.in_(pending.with_for_update(skip_locked=True)))
                .values(next_attempt_at=text("now()"))
            )
        with database.transaction() as session:
            claimed = outbox.claim(session, limit=40, room=lambda _: 40, lease_seconds=30)
        status = random.choice([200, 500, 410])
        answers = [(each, Answer(status=status)) for each in claimed.parcels]
        random.shuffle(answers)
        with database.transaction() as session:
            outbox.mark(session, answers, lease_seconds=30)

    def own() -> None:
        owner, path = client_of(customer), f"{ENDPOINTS}/{random.choice(endpoints)}"
        url = f"{URL}/{random.choice('0123')}"
        steps: list[tuple[str, str, dict[str, str]]] = [
            ("PATCH", path, {"url": url, "state": "enabled"}),
            ("PATCH", path, {"state": "disabled"}),
            ("PATCH", path, {"state": "enabled"}),
            ("POST", f"{path}/replay", {"since": LONG_AGO}),
        ]
        for method, address, body in steps:
            status = owner.open(address, method=method, json=body).status_code
            if status >= 500:
                faults.append((method, address, body))

    threads = [threading.Thread(target=again(step)) for step in (carry, carry, carry, own, own)]
    for thread in threads:
        thread.start()
    time.sleep(3)
    over.set()
    for thread in threads:
        thread.join()
    assert faults == []


def test_to_move_and_enable_an_endpoint_takes_its_locks_in_the_order_of_couriers(
    client: FlaskClient,
    client_of: Callable[[Customer], FlaskClient],
    customer: Customer,
    submit: Submit,
    database: Database,
) -> None:
    moved, there = create(client, f"{URL}/1"), create(client, f"{URL}/2")
    end_one(client, submit)
    with database.transaction() as session:
        parcels = outbox.claim(session, limit=2, room=lambda _: 2, lease_seconds=30).parcels
        session.add(
            Endpoint(
                account_id=customer.id,
                url=there["url"],
                disabled_at=text("now()"),
                disabled_reason="gone",
            )
        )
    assert len(parcels) == 2
    change = {"url": there["url"], "state": "enabled"}
    with ThreadPoolExecutor(1) as threads:
        with database.transaction() as session:
            session.scalars(select(Endpoint).with_for_update()).one()
            answer = threads.submit(
                client_of(customer).patch, f"{ENDPOINTS}/{moved['id']}", json=change
            )
            wait_for_a_lock(database)
            sent = [(each, Answer(status=500)) for each in parcels]
            outbox.mark(session, sent, lease_seconds=30)
        assert answer.result().status_code == 200


def wait_for_a_lock(database: Database) -> None:
    """Until somebody waits for one."""
    waiting = text(
        "SELECT count(*) FROM pg_stat_activity "
        "WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    deadline = time.monotonic() + 15
    while time.monotonic() < deadline:
        with database.statement() as session:
            if session.scalar(waiting):
                return
        time.sleep(0.005)
    raise AssertionError
