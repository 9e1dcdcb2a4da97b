"""The API without its broker, without its database, and for an account without credit."""

import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from redis import Redis
from sqlalchemy import event, text

from app.api import create_app
from app.config import Settings
from app.db import Database
from app.errors import DatabaseUnavailable
from app.jobs.tables import IdempotencyKey, Job
from tests.conftest import Customer
from tests.integration.conftest import Problem
from workers.process import Process
from workers.sweep import send_missing_messages

BODY = {"model": "fake", "prompt": "one two three"}
Untouched = Callable[[], bool]
ClientWith = Callable[..., FlaskClient]


@pytest.fixture
def client_with(settings: Settings, customer: Customer) -> Iterator[ClientWith]:
    """A client of an API that is composed with other settings."""
    made: list[Flask] = []

    def make(**changes: Any) -> FlaskClient:
        made.append(create_app(settings.model_copy(update=changes)))
        client = made[-1].test_client()
        client.environ_base["HTTP_AUTHORIZATION"] = f"Bearer {customer.key}"
        return client

    yield make
    for app in made:
        app.extensions["gptqueue"].database.close()


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.fixture
def sweeper(process: Process) -> Process:
    """A process that looks after every queued job, however young."""
    now = process.settings.model_copy(update={"requeue_grace_seconds": 0})
    return Process(now, process.database, process.broker)


def _messages(redis_url: str) -> int:
    with Redis.from_url(redis_url) as redis:
        return int(redis.llen("generate.fake"))


def test_without_a_broker_a_job_is_accepted_and_queued_when_the_broker_is_back(
    client_with: ClientWith,
    client: FlaskClient,
    closed_port: int,
    sweeper: Process,
    work: Callable[[], None],
) -> None:
    without_broker = client_with(redis_url=f"redis://127.0.0.1:{closed_port}/0")
    response = without_broker.post("/api/v1/generate", json=BODY)
    assert response.status_code == 202
    job = response.get_json()
    assert (job["status"], job["charge"]["state"]) == ("queued", "held")
    redis_url = sweeper.settings.redis_url
    assert _messages(redis_url) == 0
    send_missing_messages(sweeper)
    assert _messages(redis_url) == 1
    send_missing_messages(sweeper)
    assert _messages(redis_url) == 1
    work()
    assert client.get(f"/api/v1/jobs/{job['id']}").get_json()["status"] == "succeeded"


@pytest.mark.timeout(20)
def test_a_broker_that_never_answers_delays_nobody_for_long(
    client_with: ClientWith, silent_port: int
) -> None:
    client = client_with(redis_url=f"redis://127.0.0.1:{silent_port}/0", broker_timeout_seconds=0.2)
    job = client.post("/api/v1/generate", json=BODY)
    assert job.status_code == 202
    cancelled = client.post(f"/api/v1/jobs/{job.get_json()['id']}/cancel")
    assert cancelled.get_json()["status"] == "cancelled"
    assert client.get("/api/v1/status").get_json()["broker"] == {"ok": False}


def test_without_a_database_everything_that_needs_one_says_503_and_when_to_try_again(
    client_with: ClientWith, closed_port: int, problem: Problem
) -> None:
    client = client_with(database_url=f"postgresql://127.0.0.1:{closed_port}/x")
    for response in (
        client.post("/api/v1/generate", json=BODY),
        client.get("/api/v1/jobs"),
        client.get("/api/v1/usage"),
        client.get("/api/v1/webhooks/default/secret"),
    ):
        problem(response, 503, "database_unavailable")
        assert int(response.headers["Retry-After"]) > 0


@pytest.fixture
def cut(api: Flask, database: Database) -> Callable[[str], None]:
    """Cut the API's connection in the middle of a transaction: after this statement."""
    database_of_api = api.extensions["gptqueue"].database

    def arm(beginning: str) -> None:
        armed = [True]

        def after(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
            if armed and statement.startswith(beginning):
                armed.clear()
                _terminate(database, cursor.connection.get_backend_pid())

        for engine in (database_of_api.engine, database_of_api._single):
            event.listen(engine, "after_cursor_execute", after)

    return arm


def _terminate(database: Database, backend: int) -> None:
    with database.transaction() as session:
        session.execute(text("SELECT pg_terminate_backend(:backend, 5000)"), {"backend": backend})


@pytest.mark.parametrize(
    "statement",
    ["SELECT balances", "SELECT idempotency_keys", "WITH", "UPDATE balances"],
)
def test_a_database_that_goes_away_half_way_leaves_nothing_half_written(
    client: FlaskClient,
    cut: Callable[[str], None],
    problem: Problem,
    untouched: Untouched,
    statement: str,
) -> None:
    cut(statement)
    headers = {"Idempotency-Key": "once"}
    response = client.post("/api/v1/generate", json=BODY, headers=headers)
    problem(response, 503, "database_unavailable")
    assert untouched()
    again = client.post("/api/v1/generate", json=BODY, headers=headers)
    assert again.status_code == 202
    assert "Idempotent-Replayed" not in again.headers


def test_a_restarted_database_costs_nobody_an_error(
    client: FlaskClient, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.db.FRESH_SECONDS", 0)
    assert client.get("/api/v1/jobs").status_code == 200
    with database.transaction() as session:
        session.execute(
            text(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE usename = current_user AND datname = current_database()"
                " AND pid <> pg_backend_pid()"
            )
        )
    assert client.get("/api/v1/jobs").status_code == 200


@pytest.mark.parametrize("credit", [0, 12])
def test_a_job_beyond_the_credit_is_refused_and_the_balance_stays(
    api: Flask,
    database: Database,
    new_customer: Callable[..., Customer],
    problem: Problem,
    credit: int,
) -> None:
    poor = new_customer(credit_micros=credit)
    client = api.test_client()
    body = {**BODY, "max_tokens": 5}
    headers = {**poor.headers, "Idempotency-Key": "once"}
    response = client.post("/api/v1/generate", json=body, headers=headers)
    members = problem(response, 402, "insufficient_credit")
    assert (members["required_micros"], members["currency"]) == (3 * 1 + 5 * 2, "USD")
    assert members["available_micros"] == credit
    usage = client.get("/api/v1/usage", headers=poor.headers).get_json()
    assert usage["balance"] == {"available_micros": credit, "held_micros": 0}
    with database.transaction() as session:
        assert session.query(Job).count() == session.query(IdempotencyKey).count() == 0


def test_a_job_that_takes_the_last_of_the_credit_is_accepted(
    api: Flask, new_customer: Callable[..., Customer], problem: Problem
) -> None:
    client, exact = api.test_client(), new_customer(credit_micros=13)
    body = {**BODY, "max_tokens": 5}
    first = client.post("/api/v1/generate", json=body, headers=exact.headers)
    assert first.status_code == 202
    second = client.post("/api/v1/generate", json=body, headers=exact.headers)
    problem(second, 402, "insufficient_credit")


def test_once_a_job_is_stored_the_database_may_go_away_and_the_answer_is_yes(
    client: FlaskClient, cut: Callable[[str], None], settings: Settings
) -> None:
    before = _messages(settings.redis_url)
    cut("SELECT jobs.id, jobs.account_id")  # when the wait is over and the job is read
    response = client.post("/api/v1/generate", json=BODY, headers={"Prefer": "wait=1"})
    assert response.status_code == 202
    job = response.get_json()
    assert (job["status"], job["charge"]["state"]) == ("queued", "held")
    assert response.headers["Location"] == job["urls"]["get"]
    assert _messages(settings.redis_url) == before + 1
    assert client.get(f"/api/v1/jobs/{job['id']}").get_json()["id"] == job["id"]


def test_a_database_that_ends_every_connection_is_unavailable_and_nothing_worse(
    settings: Settings, database: Database
) -> None:
    struck = Database(settings, database.schema)

    def strike(connection: Any, _: Any) -> None:
        _terminate(database, connection.get_backend_pid())

    event.listen(struck.engine, "connect", strike)
    with pytest.raises(DatabaseUnavailable), struck.transaction() as session:
        session.execute(text("SELECT 1"))
    struck.close()
