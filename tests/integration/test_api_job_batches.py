"""Batches of the native API: many jobs in one request, one webhook at the end."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from flask.testing import FlaskClient
from sqlalchemy import func, select
from standardwebhooks import Webhook

from app.db import Database
from app.jobs.tables import Job, JobSet
from app.webhooks.tables import Delivery
from tests.conftest import Customer
from tests.integration.conftest import Deliver, Problem, Receiver

Work = Callable[[], None]
Batch = Callable[..., Any]


@pytest.fixture
def post(client: FlaskClient) -> Batch:
    """Submit a batch of these prompts, and what the test names."""

    def submit(*prompts: str, headers: dict[str, str] | None = None, **fields: Any) -> Any:
        jobs = [{"model": "fake", "prompt": prompt, "max_tokens": 5} for prompt in prompts]
        body = {"jobs": jobs, **fields}
        return client.post("/api/v1/batches", json=body, headers=headers or {})

    return submit


def test_a_batch_is_counted_and_told_of_once_when_its_last_job_has_ended(
    client: FlaskClient,
    post: Batch,
    work: Work,
    attempt: Deliver,
    receiver: Receiver,
    customer: Customer,
    database: Database,
) -> None:
    answer = post("one", "two", "three", metadata={"a": "b"}, webhook_url=receiver.url)
    assert answer.status_code == 202
    made = answer.get_json()
    assert answer.headers["Location"] == made["urls"]["get"]
    assert (made["status"], made["total"], made["unfinished"]) == ("running", 3, 3)
    path = f"/api/v1/batches/{made['id']}"
    jobs = client.get(f"/api/v1/jobs?batch={made['id']}").get_json()["data"]
    assert [job["batch_id"] for job in jobs] == [made["id"]] * 3
    work()
    client.post(f"/api/v1/jobs/{jobs[0]['id']}/cancel")
    said = client.get(path).get_json()
    assert (said["unfinished"], said["succeeded"], said["cancelled"]) == (1, 1, 1)
    with database.transaction() as session:
        assert session.scalar(select(func.count()).select_from(Delivery)) == 0
    work()
    done = client.get(path).get_json()
    assert (done["status"], done["unfinished"], done["succeeded"]) == ("finished", 0, 2)
    assert attempt().state == "delivered"
    ((_, headers, body),) = receiver.received
    event = Webhook(customer.secret).verify(body, headers)
    assert (event["type"], event["data"]) == ("batch.finished", done)
    assert client.get("/api/v1/batches").get_json()["data"] == [done]


def test_registered_endpoints_are_told_as_well(
    client: FlaskClient, post: Batch, work: Work, attempt: Deliver, receiver: Receiver
) -> None:
    body = {"url": receiver.url, "events": ["batch.finished"]}
    assert client.post("/api/v1/webhooks/endpoints", json=body).status_code == 201
    post("one")
    work()
    attempt()
    ((_, _, told),) = receiver.received
    assert json.loads(told)["type"] == "batch.finished"


def test_all_jobs_of_a_batch_are_taken_or_none(
    client: FlaskClient, problem: Problem, untouched: Callable[[], bool]
) -> None:
    good = {"model": "fake", "prompt": "one"}
    wrong = {
        "unknown_model": {"model": "gpt", "prompt": "x"},
        "context_length_exceeded": {"model": "fake", "prompt": "x " * 200},
        "invalid_request": {"model": "fake", "prompt": "x", "tempreature": 1},
    }
    for code, bad in wrong.items():
        answer = client.post("/api/v1/batches", json={"jobs": [good, bad]})
        assert "jobs.1" in problem(answer, 422, code)["detail"]
    problem(client.post("/api/v1/batches", json={"jobs": []}), 422, "invalid_request")
    problem(client.post("/api/v1/batches", json={"jobs": [good] * 1001}), 422, "invalid_request")
    assert untouched()


def test_credit_for_all_is_wanted(
    client: FlaskClient,
    client_of: Callable[[Customer], FlaskClient],
    new_customer: Callable[..., Customer],
    problem: Problem,
    database: Database,
) -> None:
    poor = client_of(new_customer(credit_micros=30))  # a job holds 11
    jobs = [{"model": "fake", "prompt": "one", "max_tokens": 5}] * 3
    refused = problem(poor.post("/api/v1/batches", json={"jobs": jobs}), 402, "insufficient_credit")
    assert "jobs.2" in refused["detail"]
    with database.transaction() as session:
        assert session.scalar(select(func.count()).select_from(Job)) == 0
        assert session.scalar(select(func.count()).select_from(JobSet)) == 0
    assert poor.post("/api/v1/batches", json={"jobs": jobs[:2]}).status_code == 202


def test_a_batch_that_is_submitted_again_is_the_same(post: Batch, client: FlaskClient) -> None:
    key = {"Idempotency-Key": "k"}
    first = post("one", "two", headers=key)
    again = post("one", "two", headers=key)
    assert again.headers["Idempotent-Replayed"] == "true"
    assert again.get_json() == first.get_json()
    assert post("one", "three", headers=key).get_json()["code"] == "idempotency_key_reused"
    assert len(client.get("/api/v1/jobs").get_json()["data"]) == 2


def test_a_batch_is_cancelled_with_all_that_has_not_ended(
    client: FlaskClient, post: Batch, work: Work
) -> None:
    made = post(*["one"] * 130).get_json()
    work()
    done = client.post(f"/api/v1/batches/{made['id']}/cancel").get_json()
    assert (done["status"], done["succeeded"], done["cancelled"]) == ("finished", 1, 129)
    assert client.post(f"/api/v1/batches/{made['id']}/cancel").get_json() == done


def test_batches_are_listed_by_page(client: FlaskClient, post: Batch) -> None:
    ids = [post("one").get_json()["id"] for _ in range(3)]
    first = client.get("/api/v1/batches?limit=2").get_json()
    assert [each["id"] for each in first["data"]] == ids[:0:-1]
    post("one")
    rest = client.get(f"/api/v1/batches?limit=2&after={first['next']}").get_json()
    assert ([each["id"] for each in rest["data"]], rest["has_more"]) == (ids[:1], False)


def test_nobody_sees_anothers_batch(
    post: Batch,
    client_of: Callable[[Customer], FlaskClient],
    new_customer: Callable[..., Customer],
    problem: Problem,
) -> None:
    made = post("one").get_json()
    stranger = client_of(new_customer())
    for path, method in ((made["id"], "get"), (f"{made['id']}/cancel", "post"), ("x", "get")):
        answer = getattr(stranger, method)(f"/api/v1/batches/{path}")
        problem(answer, 404, "job_batch_not_found")
    assert stranger.get("/api/v1/batches").get_json()["data"] == []
    assert stranger.get(f"/api/v1/jobs?batch={made['id']}").get_json()["data"] == []
