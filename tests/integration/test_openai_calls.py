"""Calls under /v1 whose database goes away, or whose process ends."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest
from flask import Flask
from flask.testing import FlaskClient

from app.api.openai import calls
from app.api.openai.calls import Call
from app.errors import CallTimedOut, DatabaseUnavailable
from tests.conftest import Customer
from tests.integration.conftest import Submit
from tests.integration.live import working
from workers.process import Process

CHAT = {"model": "fake", "messages": [{"role": "user", "content": "one"}]}


@pytest.fixture
def call(api: Flask, customer: Customer, submit: Submit) -> Call:
    """A call of two jobs, which wait."""
    ids = [UUID(submit().get_json()["id"]) for _ in range(2)]
    return Call(api.extensions["gptqueue"], customer.id, ids, comes_back=False)


@pytest.fixture
def statuses(client: FlaskClient) -> Callable[[], set[str]]:
    """How the jobs stand."""
    return lambda: {job["status"] for job in client.get("/api/v1/jobs").get_json().get("data", [])}


def failing(times: int, real: Callable[..., Any]) -> Callable[..., Any]:
    """The same, but at first the database does not answer."""
    left = [DatabaseUnavailable()] * times

    def attempt(*given: Any, **named: Any) -> Any:
        if left:
            raise left.pop()
        return real(*given, **named)

    return attempt


def test_a_call_waits_on_while_the_database_is_away(
    api: Flask, client: FlaskClient, process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = api.extensions["gptqueue"].reader
    monkeypatch.setattr(reader, "read", failing(2, reader.read))
    with working(process):
        answer = client.post("/v1/chat/completions", json=CHAT)
    assert answer.status_code == 200, answer.get_json()


def test_who_is_gone_is_cancelled_as_soon_as_the_database_is_back(
    call: Call, statuses: Callable[[], set[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calls, "_CANCEL_PAUSE_SECONDS", 0.05)
    database = call.services.database
    monkeypatch.setattr(database, "transaction", failing(3, database.transaction))
    call.abandon()
    give_up = time.monotonic() + 20
    while statuses() != {"cancelled"}:
        assert time.monotonic() < give_up
        time.sleep(0.05)


@contextmanager
def _ends_by(error: type[BaseException]) -> Iterator[None]:
    with pytest.raises(error):
        yield


@pytest.mark.parametrize(
    ("error", "status"),
    [(DatabaseUnavailable, "cancelled"), (SystemExit, "cancelled"), (CallTimedOut, "queued")],
)
def test_a_call_that_ends_early_leaves_jobs_only_to_who_was_told_of_them(
    call: Call, statuses: Callable[[], set[str]], error: type[BaseException], status: str
) -> None:
    with _ends_by(error), call.held():
        raise error
    assert statuses() == {status}


def test_a_call_whose_client_comes_back_leaves_them(
    call: Call, statuses: Callable[[], set[str]]
) -> None:
    with _ends_by(SystemExit), call.kept().held():
        raise SystemExit
    assert statuses() == {"queued"}


def test_a_call_that_takes_too_long_says_where_to_ask(
    api: Flask, client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    services = api.extensions["gptqueue"]
    quick = services.settings.model_copy(update={"call_wait_seconds": 0.1})
    monkeypatch.setattr(calls, "services", lambda: _with(services, quick))
    answer = client.post("/v1/chat/completions", json=CHAT)
    (job,) = client.get("/api/v1/jobs").get_json()["data"]
    assert answer.status_code == 504
    assert answer.get_json()["error"]["code"] == "call_timed_out"
    assert f"GET /api/v1/jobs/{job['id']}" in answer.get_json()["error"]["message"]
    assert answer.headers["X-Should-Retry"] == "false"
    assert job["status"] == "queued"


def _with(services: Any, settings: Any) -> Any:
    return replace(services, settings=settings)
