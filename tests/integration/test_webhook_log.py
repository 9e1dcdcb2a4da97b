"""What was sent to endpoints, and what came back, for their owners to read; and test events."""

import json
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from flask.testing import FlaskClient
from redis import Redis
from standardwebhooks import Webhook

from app.db import Database
from app.jobs import asked
from tests.conftest import Customer
from tests.integration.conftest import Problem, Receiver, Submit
from tests.integration.hooks import DELIVERIES, ENDPOINTS, URL, create, end_one, listed, read
from workers.process import Process

Deliver = Callable[[], None]


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


def test_texts_that_are_deleted_are_deleted_from_what_was_told_too(
    client: FlaskClient,
    customer: Customer,
    submit: Submit,
    work: Callable[[], None],
    receiver: Receiver,
    database: Database,
    deliver: Deliver,
) -> None:
    made = create(client, receiver.url)
    job_id = submit(webhook_url=receiver.url).get_json()["id"]
    cancelled = end_one(client, submit)  # which has no text
    work()
    before = [json.loads(read(client, each["id"])["request_body"]) for each in listed(client)]
    assert before[0]["data"]["output"]["text"]
    with database.transaction() as session:
        for each in (job_id, cancelled):
            asked.delete_texts(session, customer.id, UUID(each))
    after = [json.loads(read(client, each["id"])["request_body"]) for each in listed(client)]
    for event in before:
        if event["data"]["output"]:
            event["data"]["output"]["text"] = None
    assert len(before) == 3
    assert after == before
    deliver()
    bodies = {headers["webhook-id"]: (headers, body) for _, headers, body in receiver.received}
    for each in listed(client, f"endpoint={made['id']}"):
        headers, body = bodies[each["webhook_id"]]
        assert Webhook(made["secret"]).verify(body, headers) in after
