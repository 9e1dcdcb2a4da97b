"""Requests that are held open with "Prefer: wait"."""

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from pytest import Subtests
from redis import Redis

from app.api import create_app, watchers
from app.config import Settings
from tests.conftest import Customer
from tests.integration.conftest import Problem, Submit

Work = Callable[[], None]


@pytest.fixture
def waiting(api: Flask, customer: Customer) -> Callable[..., "Waiting"]:
    """Read a job from another thread, with "Prefer: wait"."""
    return lambda path, app=api, **options: Waiting(app, customer, path, options)


class Waiting(threading.Thread):
    """A request that is held open."""

    def __init__(self, api: Flask, customer: Customer, path: str, options: dict[str, Any]) -> None:
        super().__init__()
        self._api, self._headers = api, {**customer.headers, "Prefer": "wait=60"}
        self._path, self._options = path, options
        self.start()

    def run(self) -> None:
        client = self._api.test_client()
        self.response = client.open(self._path, headers=self._headers, **self._options)

    def answer(self) -> Any:
        self.join()
        return self.response.get_json()


def _until(condition: Callable[[], object]) -> None:
    while not condition():
        time.sleep(0.01)


def _listeners(settings: Settings) -> int:
    with Redis.from_url(settings.redis_url) as redis:
        return int(redis.pubsub_numsub("gptqueue.ended")[0][1])


@pytest.mark.timeout(30)
def test_a_request_that_waits_is_woken_when_the_job_ends(
    submit: Submit,
    work: Work,
    waiting: Callable[..., Waiting],
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(watchers, "LOOK_SECONDS", 1000)
    job = submit().get_json()
    held = waiting(f"/api/v1/jobs/{job['id']}")
    _until(lambda: _listeners(settings))
    assert held.is_alive()
    work()
    assert held.answer()["status"] == "succeeded"


@pytest.mark.timeout(30)
def test_a_submit_that_waits_answers_with_the_result(
    work: Work, waiting: Callable[..., Waiting], client: FlaskClient
) -> None:
    body = {"model": "fake", "prompt": "a"}
    held = waiting("/api/v1/generate", method="POST", json=body)
    _until(lambda: client.get("/api/v1/jobs?status=queued").get_json()["data"])
    work()
    assert held.answer()["status"] == "succeeded"
    assert held.response.status_code == 202


@pytest.fixture
def without_broker(
    settings: Settings, closed_port: int, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Flask]:
    """An API that nobody can tell that a job has ended."""
    monkeypatch.setattr(watchers, "LOOK_SECONDS", 0.05)
    alone = {"redis_url": f"redis://127.0.0.1:{closed_port}/0"}
    app = create_app(settings.model_copy(update=alone))
    yield app
    app.extensions["gptqueue"].database.close()


@pytest.mark.timeout(30)
def test_without_a_broker_a_request_that_waits_looks_for_itself(
    without_broker: Flask, submit: Submit, work: Work, waiting: Callable[..., Waiting]
) -> None:
    job = submit().get_json()
    held = waiting(f"/api/v1/jobs/{job['id']}", app=without_broker)
    work()
    assert held.answer()["status"] == "succeeded"


def test_a_wait_that_is_over_answers_with_the_job_as_it_is(
    client: FlaskClient, submit: Submit
) -> None:
    job = submit().get_json()
    headers = {"Prefer": "respond-async, wait=1"}
    held = client.get(f"/api/v1/jobs/{job['id']}", headers=headers)
    assert (held.status_code, held.get_json()["status"]) == (200, "queued")


@pytest.mark.timeout(30)
def test_a_malformed_preference_is_ignored(
    client: FlaskClient, submit: Submit, subtests: Subtests
) -> None:
    path = f"/api/v1/jobs/{submit().get_json()['id']}"
    for prefer in ("wait", "wait=", "wait=-5", "wait=soon", "await=5", "wait=0", "=", "\xff", ";,"):
        with subtests.test(prefer=prefer):
            assert client.get(path, headers={"Prefer": prefer}).status_code == 200


def test_a_wait_for_another_accounts_job_is_not_found(
    api: Flask, submit: Submit, new_customer: Callable[[], Customer], problem: Problem
) -> None:
    job = submit().get_json()
    headers = {**new_customer().headers, "Prefer": "wait=60"}
    response = api.test_client().get(f"/api/v1/jobs/{job['id']}", headers=headers)
    problem(response, 404, "job_not_found")
