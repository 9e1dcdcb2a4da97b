"""What was sent, or could not be, is sent again: one delivery, or all that failed."""

import json
import time
from collections.abc import Callable
from datetime import UTC, datetime

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
from tests.integration.hooks import (
    DELIVERIES,
    ENDPOINTS,
    LONG_AGO,
    create,
    end_one,
    listed,
    read,
)
from workers.process import Process

Deliver = Callable[[], None]


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
