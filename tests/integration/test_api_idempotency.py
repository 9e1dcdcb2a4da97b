"""A request with an Idempotency-Key is done once, however often it is sent."""

import threading
from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from pytest import Subtests
from sqlalchemy import select, text
from werkzeug.test import TestResponse

from app.db import Database
from app.jobs.tables import IdempotencyKey
from tests.conftest import Customer
from tests.integration.conftest import Problem
from workers.process import Process
from workers.sweep import sweep

BODY = {"model": "fake", "prompt": "one two three", "max_tokens": 5}
Post = Callable[..., TestResponse]


@pytest.fixture
def post(client: FlaskClient) -> Post:
    """Submit with a key."""

    def send(key: str, path: str = "generate", **changes: Any) -> TestResponse:
        headers = {"Idempotency-Key": key}
        return client.post(f"/api/v1/{path}", json={**BODY, **changes}, headers=headers)

    return send


def _held(client: FlaskClient) -> int:
    return int(client.get("/api/v1/usage").get_json()["balance"]["held_micros"])


def test_the_same_request_again_answers_with_the_first_job(post: Post, client: FlaskClient) -> None:
    first, again = post("k"), post("k")
    assert (first.status_code, again.status_code) == (202, 202)
    assert again.get_json() == first.get_json()
    assert again.headers["Location"] == first.headers["Location"]
    assert "Idempotent-Replayed" not in first.headers
    assert again.headers["Idempotent-Replayed"] == "true"
    assert _held(client) == 13


def test_a_replay_shows_the_job_as_it_is_now(post: Post, work: Callable[[], None]) -> None:
    post("k")
    work()
    again = post("k")
    assert again.status_code == 202
    assert again.get_json()["status"] == "succeeded"


def test_the_same_key_with_another_request_is_refused(
    post: Post, problem: Problem, client: FlaskClient
) -> None:
    post("k")
    problem(post("k", max_tokens=6), 422, "idempotency_key_reused")
    problem(post("k", path="complete"), 422, "idempotency_key_reused")
    assert _held(client) == 13


def test_another_key_makes_another_job(post: Post) -> None:
    assert post("a").get_json()["id"] != post("b").get_json()["id"]


def test_keys_are_the_accounts_own(
    post: Post, api: Flask, new_customer: Callable[[], Customer]
) -> None:
    mine = post("k").get_json()
    headers = {**new_customer().headers, "Idempotency-Key": "k"}
    theirs = api.test_client().post("/api/v1/generate", json=BODY, headers=headers)
    assert theirs.status_code == 202
    assert theirs.get_json()["id"] != mine["id"]
    assert "Idempotent-Replayed" not in theirs.headers
    assert post("k").get_json()["id"] == mine["id"]


def test_a_refused_request_does_not_use_up_its_key(post: Post) -> None:
    assert post("k", max_tokens=0).status_code == 422
    assert post("k").status_code == 202


@pytest.mark.timeout(60)
def test_the_same_request_many_times_at_once_makes_one_job(post: Post, client: FlaskClient) -> None:
    answers: list[TestResponse] = []
    threads = [threading.Thread(target=lambda: answers.append(post("k"))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.get_json()["id"] for answer in answers}) == 1
    replayed = [answer.headers.get("Idempotent-Replayed") for answer in answers]
    assert sorted(replayed, key=str) == [None, *["true"] * 7]
    assert _held(client) == 13


def test_the_sweep_forgets_keys_after_24_hours_and_no_sooner(
    post: Post, process: Process, database: Database
) -> None:
    post("old")
    with database.transaction() as session:
        aged = text("UPDATE idempotency_keys SET created_at = now() - interval '24 hours 1 second'")
        session.execute(aged)
    post("young")
    sweep(process)
    with database.transaction() as session:
        assert session.scalars(select(IdempotencyKey.key)).all() == ["young"]


def test_a_malformed_key_is_refused(post: Post, problem: Problem, subtests: Subtests) -> None:
    for key in ("", " ", "a b", "k" * 256, "\xe9", "a\tb"):
        with subtests.test(key=key):
            problem(post(key), 422, "invalid_request")
    assert post("k" * 255).status_code == 202
