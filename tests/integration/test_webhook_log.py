"""What was sent, what came back, and sending it again."""

import json
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from flask.testing import FlaskClient
from redis import Redis
from sqlalchemy import text, update
from standardwebhooks import Webhook

from app.db import Database
from app.webhooks import outbox
from app.webhooks.parcels import Answer
from app.webhooks.tables import Delivery
from tests.integration.conftest import Problem, Receiver, Submit
from tests.integration.test_webhook_registration import (
    DELIVERIES,
    ENDPOINTS,
    URL,
    create,
    end_one,
)
from workers.process import Process

Deliver = Callable[[], None]
LONG_AGO = "2020-01-01T00:00:00Z"
WITHDRAWN = "Its endpoint was deleted, or disabled by its owner."


@pytest.fixture
def deliver(process: Process, database: Database) -> Deliver:
    """Make an attempt at all that is pending."""

    def run() -> None:
        with database.transaction() as session:
            session.execute(
                update(Delivery)
                .where(Delivery.state == "pending")
                .values(next_attempt_at=text("now()"))
            )
        process.courier.deliver_due()
        process.courier.settle()

    return run


@pytest.fixture
def abandon(database: Database) -> Callable[[], None]:
    """Let every schedule be used up."""

    def run() -> None:
        with database.transaction() as session:
            session.execute(
                update(Delivery)
                .where(Delivery.state == "pending")
                .values(state="abandoned", ended_at=text("now()"), attempts=10)
            )

    return run


def listed(client: FlaskClient, query: str = "") -> list[dict[str, Any]]:
    return list(client.get(f"{DELIVERIES}?{query}").get_json()["data"])


def read(client: FlaskClient, delivery_id: str) -> dict[str, Any]:
    return dict(client.get(f"{DELIVERIES}/{delivery_id}").get_json())


def test_a_test_goes_to_the_endpoint_whatever_it_wants_and_is_of_no_job(
    client: FlaskClient, receiver: Receiver, deliver: Deliver, process: Process
) -> None:
    made = create(client, receiver.url, events=["job.failed"])
    with Redis.from_url(process.settings.redis_url) as redis:
        redis.delete("webhooks")
        answer = client.post(f"{ENDPOINTS}/{made['id']}/test")
        assert redis.llen("webhooks") == 1
    told = answer.get_json()
    assert (answer.status_code, told["state"], told["type"]) == (202, "pending", "webhook.test")
    assert (told["endpoint"], told["job"], told["attempts"]) == (made["id"], None, 0)
    deliver()
    ((_, headers, body),) = receiver.received
    event = Webhook(made["secret"]).verify(body, headers)
    assert event["type"] == "webhook.test"
    assert event["data"] == {"endpoint": made["id"]}
    assert datetime.fromisoformat(event["timestamp"]) <= datetime.now(UTC)
    assert headers["webhook-id"] == told["webhook_id"]
    assert read(client, told["id"])["state"] == "delivered"


def test_the_log_has_every_attempt_with_request_answer_and_timing(
    client: FlaskClient, submit: Submit, receiver: Receiver, deliver: Deliver
) -> None:
    before = datetime.now(UTC)
    made = create(client, receiver.url)
    job_id = end_one(client, submit)
    receiver.answers = [(500, {"X-A": "b"}), (204, {})]
    deliver()
    deliver()
    (told,) = listed(client)
    assert (told["endpoint"], told["job"], told["url"]) == (made["id"], job_id, receiver.url)
    assert (told["state"], told["attempts"], told["last_status"]) == ("delivered", 2, 204)
    shown = read(client, told["id"])
    log = shown.pop("log")
    assert shown.pop("request_body").encode() == receiver.received[0][2]
    assert shown == told
    for number, (status, each) in enumerate(zip([500, 204], log, strict=True), start=1):
        assert (each["number"], each["response_status"], each["error"]) == (number, status, None)
        assert each["response_body"] == ""
        sent = receiver.received[number - 1][1]
        assert {name.lower(): value for name, value in each["request_headers"].items()} == sent
        assert before <= datetime.fromisoformat(each["started"]) + timedelta(milliseconds=1)
        assert 0 <= each["duration_ms"] < 15_000


def test_an_attempt_that_reached_nobody_says_why(
    client: FlaskClient, deliver: Deliver, closed_port: int
) -> None:
    made = create(client, f"http://127.0.0.1:{closed_port}/")
    delivery = client.post(f"{ENDPOINTS}/{made['id']}/test").get_json()
    deliver()
    (attempt,) = read(client, delivery["id"])["log"]
    assert attempt["error"] == "ConnectionRefusedError"
    assert attempt["request_headers"] is None
    assert (attempt["response_status"], attempt["response_body"]) == (None, None)


def test_deliveries_are_listed_newest_first_narrowed_and_page_by_page(
    client: FlaskClient, submit: Submit, abandon: Callable[[], None]
) -> None:
    one, other = create(client)["id"], create(client, events=["job.failed"])["id"]
    jobs = [end_one(client, submit) for _ in range(3)]
    abandon()
    client.post(f"{ENDPOINTS}/{other}/test")
    everything = [each["id"] for each in listed(client)]
    assert everything == sorted(everything, reverse=True)
    assert [each["job"] for each in listed(client)] == [None, *jobs[::-1]]
    assert [each["job"] for each in listed(client, f"endpoint={one}")] == jobs[::-1]
    assert [each["job"] for each in listed(client, f"job={jobs[1]}")] == [jobs[1]]
    assert [each["endpoint"] for each in listed(client, "state=pending")] == [other]
    assert len(listed(client, "state=abandoned")) == 3
    assert listed(client, "state=delivered") == []
    first = client.get(f"{DELIVERIES}?limit=3").get_json()
    second = client.get(f"{DELIVERIES}?limit=3&after={first['next']}").get_json()
    assert (first["has_more"], second["has_more"], second["next"]) == (True, False, None)
    assert [each["id"] for each in first["data"] + second["data"]] == everything


def test_deliveries_are_listed_since_a_moment(client: FlaskClient, submit: Submit) -> None:
    create(client)
    end_one(client, submit)
    time.sleep(0.01)
    moment = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    later = end_one(client, submit)
    assert [each["job"] for each in listed(client, f"since={moment}")] == [later]
    assert len(listed(client, "since=0001-01-01T00:00:00Z")) == 2
    assert listed(client, "since=9999-12-31T23:59:59Z") == []


@pytest.mark.parametrize(
    "query",
    ["state=done", "endpoint=x", "job=x", "since=today", "since=2020-01-01", "limit=0", "url=x"],
)
def test_a_list_of_deliveries_refuses_what_it_does_not_know(
    client: FlaskClient, problem: Problem, query: str
) -> None:
    problem(client.get(f"{DELIVERIES}?{query}"), 422, "invalid_request")


def test_a_delivery_that_arrived_can_be_sent_again_under_the_same_id(
    client: FlaskClient, receiver: Receiver, deliver: Deliver, process: Process
) -> None:
    made = create(client, receiver.url)
    delivery = client.post(f"{ENDPOINTS}/{made['id']}/test").get_json()
    deliver()
    with Redis.from_url(process.settings.redis_url) as redis:
        redis.delete("webhooks")
        answer = client.post(f"{DELIVERIES}/{delivery['id']}/replay")
        assert redis.llen("webhooks") == 1
    again = answer.get_json()
    assert (answer.status_code, again["state"], again["ended"]) == (202, "pending", None)
    process.courier.deliver_due()  # at once
    process.courier.settle()
    first, second = receiver.received
    assert first[2] == second[2]
    assert first[1]["webhook-id"] == second[1]["webhook-id"]
    Webhook(made["secret"]).verify(second[2], second[1])
    shown = read(client, delivery["id"])
    assert (shown["state"], shown["attempts"], len(shown["log"])) == ("delivered", 2, 2)


def test_what_a_job_sent_to_its_own_url_can_be_sent_again(
    client: FlaskClient, submit: Submit, receiver: Receiver, deliver: Deliver
) -> None:
    job_id = end_one(client, submit, webhook_url=receiver.url)
    deliver()
    (told,) = listed(client, f"job={job_id}")
    client.post(f"{DELIVERIES}/{told['id']}/replay")
    assert client.get(f"/api/v1/jobs/{job_id}").get_json()["webhook"]["state"] == "pending"
    deliver()
    assert len(receiver.received) == 2
    assert client.get(f"/api/v1/jobs/{job_id}").get_json()["webhook"]["attempts"] == 2


def test_a_replay_has_the_whole_schedule_before_it(
    client: FlaskClient,
    receiver: Receiver,
    deliver: Deliver,
    database: Database,
    process: Process,
) -> None:
    made = create(client, receiver.url)
    delivery = client.post(f"{ENDPOINTS}/{made['id']}/test").get_json()
    receiver.answers = [(500, {})] * 20
    for _ in range(10):
        deliver()
    assert read(client, delivery["id"])["state"] == "abandoned"
    client.post(f"{DELIVERIES}/{delivery['id']}/replay")
    deliver()
    with database.transaction() as session:
        query = "SELECT extract(epoch FROM next_attempt_at - now()) FROM webhook_deliveries"
        assert 0 < float(session.scalar(text(query))) <= 5
    for _ in range(8):
        deliver()
    assert read(client, delivery["id"])["state"] == "pending"
    deliver()
    shown = read(client, delivery["id"])
    assert (shown["state"], shown["attempts"]) == ("abandoned", 20)
    assert [each["number"] for each in shown["log"]] == list(range(11, 21))


def test_what_has_not_ended_is_not_replayed(client: FlaskClient, problem: Problem) -> None:
    made = create(client)
    delivery = client.post(f"{ENDPOINTS}/{made['id']}/test").get_json()
    answer = client.post(f"{DELIVERIES}/{delivery['id']}/replay")
    problem(answer, 409, "webhook_delivery_pending")


def test_all_that_failed_since_a_moment_is_sent_again_and_nothing_else(
    client: FlaskClient,
    submit: Submit,
    receiver: Receiver,
    deliver: Deliver,
    abandon: Callable[[], None],
) -> None:
    made, other = create(client, receiver.url), create(client, f"{receiver.url}2")
    end_one(client, submit)
    abandon()
    time.sleep(0.01)
    moment = datetime.now(UTC).isoformat()
    failed = [end_one(client, submit) for _ in range(3)]
    abandon()
    end_one(client, submit)
    deliver()
    receiver.received.clear()
    path = f"{ENDPOINTS}/{made['id']}/replay"
    answer = client.post(path, json={"since": moment})
    assert (answer.status_code, answer.get_json()) == (202, {"replayed": 3, "has_more": False})
    assert client.post(path, json={"since": moment}).get_json()["replayed"] == 0
    deliver()
    assert sorted(json.loads(body)["data"]["id"] for _, _, body in receiver.received) == failed
    assert len(listed(client, f"endpoint={other['id']}&state=abandoned")) == 4
    assert client.post(path, json={"since": LONG_AGO}).get_json()["replayed"] == 1


def test_more_than_one_call_replays_is_said_so(
    client: FlaskClient,
    submit: Submit,
    abandon: Callable[[], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("app.webhooks.replay.AT_ONCE", 2)
    made = create(client)
    jobs = [end_one(client, submit) for _ in range(3)]
    abandon()
    path = f"{ENDPOINTS}/{made['id']}/replay"
    answers = [client.post(path, json={"since": LONG_AGO}).get_json() for _ in range(1)]
    assert [each["job"] for each in listed(client, "state=pending")] == jobs[1::-1]
    answers.append(client.post(path, json={"since": LONG_AGO}).get_json())
    assert answers == [
        {"replayed": 2, "has_more": True},
        {"replayed": 1, "has_more": False},
    ]


@pytest.mark.parametrize("body", [{}, {"since": "today"}, {"since": "2020-01-01T00:00:00"}])
def test_a_replay_without_a_moment_is_refused(
    client: FlaskClient, problem: Problem, body: dict[str, str]
) -> None:
    made = create(client)
    answer = client.post(f"{ENDPOINTS}/{made['id']}/replay", json=body)
    problem(answer, 422, "invalid_request")


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


def test_a_replay_meets_the_attempt_before_it_and_only_one_of_them_counts(
    client: FlaskClient, submit: Submit, database: Database
) -> None:
    create(client)
    end_one(client, submit)
    with database.transaction() as session:
        claimed = outbox.claim(session, limit=1, room=lambda _: 1, lease_seconds=30)
    (slow,) = claimed.parcels
    with database.transaction() as session:
        session.execute(update(Delivery).values(state="abandoned", ended_at=text("now()")))
    (told,) = listed(client)
    client.post(f"{DELIVERIES}/{told['id']}/replay")
    with database.transaction() as session:
        claimed = outbox.claim(session, limit=1, room=lambda _: 1, lease_seconds=30)
    (again,) = claimed.parcels
    assert (again.attempt, again.before) == (2, 1)
    with database.transaction() as session:
        answers = [(slow, Answer(status=200)), (again, Answer(status=500))]
        assert outbox.mark(session, answers, lease_seconds=30) == [None, "pending"]


def test_ids_of_deliveries_are_of_their_time(client: FlaskClient, submit: Submit) -> None:
    """Or "since" would not find them."""
    create(client)
    end_one(client, submit)
    (told,) = listed(client)
    made = datetime.fromtimestamp((UUID(told["id"]).int >> 80) / 1000, UTC)
    assert abs(made - datetime.fromisoformat(told["created"])) < timedelta(seconds=5)


def test_urls_for_nobody_stay_out_of_the_list(client: FlaskClient, submit: Submit) -> None:
    end_one(client, submit)
    assert listed(client) == []
    end_one(client, submit, webhook_url=URL)
    assert [each["endpoint"] for each in listed(client)] == [None]
