"""Webhooks from the outbox to a real receiver: written with the result, signed, tried again."""

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any
from uuid import UUID, uuid4

import pytest
from flask.testing import FlaskClient
from openai import InvalidWebhookSignatureError, OpenAI
from redis import Redis
from sqlalchemy import func, select, text, update
from standardwebhooks import Webhook

from app.db import Database
from app.webhooks import outbox
from app.webhooks.tables import Delivery, Endpoint
from tests.conftest import Customer
from tests.integration.conftest import Deliver, Receiver, Submit, delivery
from workers.deliver import Courier
from workers.process import Process
from workers.sweep import expire_late, send_due_webhooks

Work = Callable[[], None]


def _wait(database: Database) -> float:
    """Seconds from the last attempt, whose transaction has just ended, to the next."""
    query = "SELECT extract(epoch FROM next_attempt_at - now()) FROM webhook_deliveries"
    with database.transaction() as session:
        return float(session.scalar(text(query)) or 0)


def test_the_event_is_written_with_the_result(
    submit: Submit, work: Work, client: FlaskClient, receiver: Receiver, database: Database
) -> None:
    job = submit(webhook_url=receiver.url, metadata={"order": "12"}).get_json()
    with database.transaction() as session:
        assert session.scalars(select(Delivery)).all() == []
    work()
    recorded = delivery(database)
    assert (recorded.type, recorded.state) == ("job.succeeded", "pending")
    assert (recorded.url, recorded.attempts) == (receiver.url, 0)
    event = json.loads(recorded.body)
    assert event.keys() == {"type", "timestamp", "data"}
    assert event["type"] == "job.succeeded"
    assert event["timestamp"] == event["data"]["finished"]
    shown = client.get(f"/api/v1/jobs/{job['id']}").get_json()
    assert event["data"] == {**shown, "webhook": None}  # which it cannot know
    assert receiver.received == []


def test_a_job_without_an_address_writes_no_event(
    submit: Submit, work: Work, database: Database
) -> None:
    submit()
    work()
    with database.transaction() as session:
        assert session.scalars(select(Delivery)).all() == []


def test_the_reference_package_verifies_what_a_receiver_gets(
    submit: Submit, work: Work, attempt: Deliver, receiver: Receiver, customer: Customer
) -> None:
    job = submit(webhook_url=receiver.url, prompt="\N{SNOWMAN}").get_json()
    work()
    delivery = attempt()
    assert (delivery.state, delivery.last_status, delivery.attempts) == ("delivered", 200, 1)
    ((path, headers, body),) = receiver.received
    event = Webhook(customer.secret).verify(body, headers)
    assert event["data"]["id"] == job["id"]
    assert path == "/hook?a=b"
    assert headers["host"] == receiver.url.split("/")[2]
    assert headers["content-type"] == "application/json"
    assert headers["webhook-id"] == f"msg_{delivery.id.hex}"


def test_the_sdk_of_openai_unwraps_what_a_receiver_gets(
    submit: Submit, work: Work, attempt: Deliver, receiver: Receiver, customer: Customer
) -> None:
    job = submit(webhook_url=receiver.url, prompt="\N{SNOWMAN}").get_json()
    work()
    attempt()
    ((_, headers, body),) = receiver.received
    with OpenAI(api_key="unused", webhook_secret=customer.secret) as sdk:
        event = sdk.webhooks.unwrap(body, headers)
        assert (event.type, event.data.id) == ("job.succeeded", job["id"])
        with pytest.raises(InvalidWebhookSignatureError):
            sdk.webhooks.unwrap(body + b" ", headers)


def _cancelled(client: FlaskClient, job_id: str, _process: Process) -> None:
    client.post(f"/api/v1/jobs/{job_id}/cancel")


def _expired(_client: FlaskClient, _job_id: str, process: Process) -> None:
    with process.database.transaction() as session:
        session.execute(text("UPDATE jobs SET deadline_at = now()"))
    expire_late(process)


@pytest.mark.parametrize(("status", "end"), [("cancelled", _cancelled), ("expired", _expired)])
def test_a_job_that_ends_before_it_starts_sends_its_event(
    client: FlaskClient,
    submit: Submit,
    process: Process,
    attempt: Deliver,
    receiver: Receiver,
    status: str,
    end: Callable[..., None],
) -> None:
    job = submit(webhook_url=receiver.url).get_json()
    end(client, job["id"], process)
    assert attempt().type == f"job.{status}"
    event = json.loads(receiver.received[0][2])
    assert (event["type"], event["data"]["status"]) == (f"job.{status}", status)
    assert event["data"]["charge"]["state"] == "released"


def test_a_job_that_fails_sends_its_event(
    submit: Submit,
    work: Work,
    process: Process,
    attempt: Deliver,
    receiver: Receiver,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def crash(_: Any) -> None:
        raise RuntimeError

    monkeypatch.setattr(process.servings["generate.fake"], "run", crash)
    submit(webhook_url=receiver.url)
    work()
    assert attempt().type == "job.failed"
    data = json.loads(receiver.received[0][2])["data"]
    assert (data["status"], data["error"]["code"]) == ("failed", "internal_error")


def test_a_receiver_that_fails_is_tried_again_on_schedule_with_the_same_id(
    attempt: Deliver, pending: Receiver, customer: Customer, database: Database
) -> None:
    pending.answers = [(500, {}), (404, {}), (302, {"Location": pending.url}), (204, {})]
    for number, (status, wait) in enumerate([(500, 5), (404, 300), (302, 1800)], start=1):
        delivery = attempt()
        assert (delivery.state, delivery.last_status) == ("pending", status)
        assert (delivery.attempts, delivery.ended_at) == (number, None)
        assert wait - 5 < _wait(database) <= wait
    last = attempt()
    assert (last.state, last.attempts, last.last_status) == ("delivered", 4, 204)
    assert len(pending.received) == 4
    assert len({headers["webhook-id"] for _, headers, _ in pending.received}) == 1
    for _, headers, body in pending.received:
        Webhook(customer.secret).verify(body, headers)


def test_after_the_last_attempt_of_the_schedule_it_is_given_up(
    attempt: Deliver, pending: Receiver
) -> None:
    pending.answers = [(503, {})] * 20
    states = [attempt().state for _ in range(10)]
    assert states == ["pending"] * 9 + ["abandoned"]
    assert attempt().attempts == 10
    assert len(pending.received) == 10


def test_a_receiver_that_is_gone_is_not_tried_again(attempt: Deliver, pending: Receiver) -> None:
    pending.answers = [(410, {})]
    delivery = attempt()
    assert (delivery.state, delivery.last_status) == ("abandoned", 410)
    assert delivery.ended_at is not None
    attempt()
    assert len(pending.received) == 1


@pytest.mark.parametrize(
    ("said", "wait"),
    [("120", 120), ("0", 5), ("999999999", 86_400), ("9" * 5000, 5), ("soon", 5), ("-1", 5)],
)
def test_what_a_receiver_asks_for_with_retry_after_is_honoured_within_reason(
    attempt: Deliver, pending: Receiver, database: Database, said: str, wait: int
) -> None:
    pending.answers = [(429, {"Retry-After": said})]
    assert attempt().state == "pending"
    assert wait - 5 < _wait(database) <= wait


def test_an_event_that_is_not_due_is_not_sent(
    pending: Receiver, attempt: Deliver, process: Process, database: Database
) -> None:
    pending.answers = [(500, {})]
    attempt()
    process.courier.deliver_due()
    process.courier.settle()
    assert len(pending.received) == 1
    assert delivery(database).attempts == 1


def test_a_message_when_nothing_is_due_is_dropped_quietly(process: Process) -> None:
    process.courier.deliver_due()
    process.courier.settle()


@pytest.mark.timeout(60)
def test_many_deliverers_at_once_send_an_event_once(
    pending: Receiver, process: Process, database: Database
) -> None:
    couriers = [Courier(process.settings, process.database) for _ in range(4)]
    threads = [threading.Thread(target=each.deliver_due) for each in 2 * couriers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for courier in couriers:
        courier.settle()
    assert len(pending.received) == 1
    assert delivery(database).attempts == 1


def test_a_deliverer_that_died_is_replaced_and_cannot_write_any_more(
    pending: Receiver, attempt: Deliver, database: Database
) -> None:
    with database.transaction() as session:
        claimed = outbox.claim(session, limit=2, room=lambda host: 1, lease_seconds=30)
    (lost,) = claimed.parcels
    assert 25 < _wait(database) <= 30
    assert attempt().state == "delivered"
    with database.transaction() as session:
        assert outbox.mark(session, [(lost, outbox.Answer(status=500))], lease_seconds=30) == [None]
    assert delivery(database).state == "delivered"


@pytest.fixture
def hanging() -> Iterator[list[str]]:
    """The URLs of receivers that take connections and never answer."""
    with ExitStack() as closing:
        servers = [socket.create_server(("127.0.0.1", 0), backlog=64) for _ in range(5)]
        for server in servers:
            closing.enter_context(server)
        yield [f"http://127.0.0.1:{server.getsockname()[1]}/" for server in servers]


@pytest.mark.parametrize("receivers", [1, 5])
def test_receivers_that_hang_do_not_hold_up_those_of_others(
    hanging: list[str],
    receiver: Receiver,
    new_customer: Callable[[], Customer],
    process: Process,
    receivers: int,
) -> None:
    # One receiver of many accounts, or many of one.
    accounts = [new_customer().id for _ in range(6 - receivers)]
    hooks = [(accounts[n % len(accounts)], hanging[n % receivers]) for n in range(50)]
    for account_id, url in [*hooks, *[(new_customer().id, receiver.url)] * 3]:
        event = outbox.Event(
            account_id=account_id, job_id=uuid4(), type="job.failed", url=url, body="{}"
        )
        with process.database.transaction() as session:  # each is due a little later
            outbox.record(session, [event])
    few = {
        "webhook_timeout_seconds": 8,
        "webhook_concurrency": 8,
        "webhook_concurrency_per_host": 2,
    }
    courier = Courier(process.settings.model_copy(update=few), process.database)
    courier.deliver_due()
    assert receiver.wait_for(3, seconds=7)  # before any of the hanging ones has given up
    with process.database.transaction() as session:
        session.execute(update(Delivery).values(state="abandoned", ended_at=text("now()")))
    courier.settle()


def test_the_sweep_sends_what_is_due_and_nothing_else(
    pending: Receiver, attempt: Deliver, process: Process, database: Database
) -> None:
    with Redis.from_url(process.settings.redis_url) as redis:
        redis.delete("webhooks")
        send_due_webhooks(process)
        assert redis.llen("webhooks") == 1
        redis.delete("webhooks")
        pending.answers = [(500, {})]
        attempt()
        send_due_webhooks(process)
        assert redis.llen("webhooks") == 0


def test_the_sweep_does_not_fill_a_queue_that_is_behind(
    pending: Receiver, process: Process
) -> None:
    with Redis.from_url(process.settings.redis_url) as redis:
        redis.delete("webhooks")
        redis.rpush("webhooks", *["message"] * 500)
        send_due_webhooks(process)
        assert redis.llen("webhooks") == 500
        redis.delete("webhooks")


@pytest.mark.timeout(60)
def test_one_message_is_enough_for_all_that_is_due_at_one_host(
    receiver: Receiver, customer: Customer, process: Process
) -> None:
    for number in range(100):
        event = outbox.Event(
            account_id=customer.id,
            job_id=uuid4(),
            type="job.failed",
            url=f"{receiver.url}?{number}",
            body="{}",
        )
        with process.database.transaction() as session:
            outbox.record(session, [event])
    process.courier.deliver_due()
    assert receiver.wait_for(100, seconds=30)
    process.courier.settle()


@pytest.mark.timeout(120)
def test_what_becomes_due_while_others_are_sent_is_not_forgotten(
    receiver: Receiver, customer: Customer, process: Process
) -> None:
    """Each of these groups is told of by one message, as the ends of jobs are."""
    for group in range(60):
        events = [
            outbox.Event(
                account_id=customer.id,
                job_id=uuid4(),
                type="job.failed",
                url=receiver.url,
                body=f"[{group}, {number}]",
            )
            for number in range(5)
        ]
        with process.database.transaction() as session:
            outbox.record(session, events)
        threading.Thread(target=process.courier.deliver_due).start()
    assert receiver.wait_for(300, seconds=30)
    process.courier.settle()


def due_events(process: Process, account_id: UUID, urls: Sequence[str]) -> None:
    """An event for each of these URLs, in this order."""
    for url in urls:
        event = outbox.Event(
            account_id=account_id, job_id=uuid4(), type="job.failed", url=url, body="{}"
        )
        with process.database.transaction() as session:
            outbox.record(session, [event])


@pytest.mark.timeout(120)
def test_a_courier_that_is_stopped_has_sent_all_that_it_claimed(
    receiver: Receiver, customer: Customer, process: Process, database: Database
) -> None:
    due_events(process, customer.id, [receiver.url] * 200)
    for _ in range(5):
        courier = Courier(process.settings, database)
        callers = [threading.Thread(target=courier.deliver_due) for _ in range(4)]
        for caller in callers:
            caller.start()
        assert receiver.wait_for(1, seconds=30)
        courier.stop()
        for caller in callers:
            caller.join()
        with database.transaction() as session:
            tried = select(Delivery.state).where(Delivery.attempts > 0).distinct()
            assert session.scalars(tried).all() == ["delivered"]


def test_disabled_endpoints_do_not_hide_what_is_due_behind_them(
    receiver: Receiver, customer: Customer, process: Process, database: Database
) -> None:
    gone = [f"{receiver.url}gone/{number}" for number in range(150)]
    due_events(process, customer.id, [*gone, receiver.url])
    with database.transaction() as session:
        session.add_all(
            Endpoint(
                account_id=customer.id, url=url, disabled_at=func.now(), disabled_reason="gone"
            )
            for url in gone
        )
    process.courier.deliver_due()
    process.courier.settle()
    with database.transaction() as session:
        states = session.execute(select(Delivery.state, func.count()).group_by(Delivery.state))
        assert sorted(map(tuple, states)) == [("abandoned", 150), ("delivered", 1)]


def test_what_another_process_is_claiming_hides_nothing_that_it_leaves(
    receiver: Receiver, customer: Customer, process: Process, database: Database
) -> None:
    due_events(process, customer.id, [receiver.url] * 20)
    first = select(Delivery.id).order_by(Delivery.next_attempt_at).limit(8)
    with database.transaction() as session:
        taken = session.scalars(first.with_for_update()).all()
        looking = threading.Thread(target=process.courier.deliver_due)
        looking.start()
        time.sleep(0.05)
        session.execute(
            update(Delivery)
            .where(Delivery.id.in_(taken))
            .values(next_attempt_at=text("now() + interval '1 hour'"))
        )
    looking.join()
    assert receiver.wait_for(12, seconds=30)
    process.courier.settle()
