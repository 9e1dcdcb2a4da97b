"""What a job would cost and wait for, and why one waits."""

from collections.abc import Callable
from typing import Any

import pytest
from flask.testing import FlaskClient
from sqlalchemy import update

from app.billing.tables import Balance
from app.db import Database
from app.fleet.tables import Worker
from app.jobs.expire import expire_queued
from app.jobs.tables import Job
from tests.integration.conftest import Problem, Submit
from workers.process import Process

Work = Callable[[], None]
Untouched = Callable[[], bool]


@pytest.fixture
def quote(client: FlaskClient) -> Callable[..., dict[str, Any]]:
    """The quote of a small prompt."""

    def ask(**fields: Any) -> dict[str, Any]:
        text = {} if "messages" in fields else {"prompt": "one two three"}
        answer = client.post("/api/v1/quote", json={"model": "fake", **text, **fields})
        assert answer.status_code == 200, answer.get_json()
        return answer.get_json()

    return ask


def test_a_quote_says_what_a_job_costs_at_least_and_at_most(
    quote: Callable[..., Any], submit: Submit, untouched: Untouched
) -> None:
    said = quote(max_tokens=10)
    assert untouched()
    assert (said["prompt_tokens"], said["prompt_tokens_exact"], said["max_tokens"]) == (3, True, 10)
    assert (said["lowest_micros"], said["highest_micros"]) == (3, 3 + 10 * 2)
    assert (said["covered"], said["available_micros"]) == (True, 1_000_000)
    job = submit(max_tokens=10).get_json()
    assert job["charge"]["held_micros"] == said["highest_micros"]
    assert job["charge"]["price"] == said["price"]
    chat = quote(messages=[{"role": "user", "content": "one"}])
    assert (chat["prompt_tokens"], chat["max_tokens"]) == (1, 20)


def test_a_quote_says_whether_a_live_worker_can_serve_it(
    quote: Callable[..., Any], database: Database, request: pytest.FixtureRequest
) -> None:
    said = quote()
    nobody = {"reason": "no_worker", "position": 0, "eta_seconds": None}
    assert (said["servable"], said["waiting"]) == (False, nobody)
    request.getfixturevalue("process")
    assert quote()["servable"] is True
    with database.transaction() as session:  # a worker that holds another version
        session.execute(update(Worker).values(version="0"))
    assert quote()["waiting"]["reason"] == "no_worker"
    for state in ("loading", "failed"):  # of that other version, too
        with database.transaction() as session:
            session.execute(update(Worker).values(state=state))
        assert quote()["waiting"]["reason"] == "no_worker"


def test_the_wait_is_told_from_what_jobs_took_of_late(
    quote: Callable[..., Any], process: Process, submit: Submit
) -> None:
    serving = process.servings["generate.fake"]
    serving._took(8.0)
    serving._took(3.0)
    serving.heartbeat.beat()
    assert serving._job_seconds == 7.0
    assert quote()["waiting"]["eta_seconds"] == 0  # sixteen slots are free
    for _ in range(20):
        submit()
    # Of 21 jobs 5 have to wait for a slot; sixteen slots give one every 7/16 seconds.
    assert quote()["waiting"] == {"reason": "in_queue", "position": 20, "eta_seconds": 3}


def test_credit_that_does_not_cover_it_is_said_and_refuses_nothing(
    quote: Callable[..., Any], database: Database, customer: Any
) -> None:
    with database.transaction() as session:
        session.get_one(Balance, customer.id).available_micros = 5
    said = quote()
    assert (said["covered"], said["available_micros"]) == (False, 5)


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"prompt": "a", "messages": [{"role": "user", "content": "a"}]},
        {"prompt": "a", "kind": "chat"},
        {"messages": [{"role": "user", "content": "a"}], "kind": "generate"},
        {"prompt": "a", "max_token": 3},
    ],
    ids=["neither", "both", "a chat of a prompt", "messages to generate", "a misspelt field"],
)
def test_a_quote_of_nothing_sensible_is_refused(
    client: FlaskClient, problem: Problem, wrong: dict[str, Any]
) -> None:
    problem(client.post("/api/v1/quote", json={"model": "fake", **wrong}), 422, "invalid_request")
    unknown = client.post("/api/v1/quote", json={"model": "gpt", "prompt": "a"})
    problem(unknown, 422, "unknown_model")


def test_a_job_that_nothing_could_serve_says_so_when_its_deadline_has_passed(
    client: FlaskClient, submit: Submit, database: Database
) -> None:
    job = submit(deadline_seconds=60).get_json()
    with database.transaction() as session:
        session.execute(update(Job).values(deadline_at=Job.created_at))
    with database.transaction() as session:
        expire_queued(session, base_url="", fresh_seconds=15)
    done = client.get(f"/api/v1/jobs/{job['id']}").get_json()
    assert done["status"] == "expired"
    assert done["error"] == {
        "code": "deadline_before_start",
        "message": "It could not start before its deadline: no worker serves this version of the "
        "model.",
    }
