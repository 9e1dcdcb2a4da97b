"""Who may ask, and for what: refusals that do not depend on the fields of a body."""

import dataclasses
import time
from collections.abc import Callable
from datetime import UTC, datetime
from uuid import uuid4

import pytest
from flask import Flask
from flask.testing import FlaskClient
from pytest import Subtests
from sqlalchemy import update

from app.accounts import keys
from app.accounts.tables import ApiKey
from app.api import authentication, create_app
from app.config import Settings
from app.db import Database
from tests.conftest import Customer
from tests.integration.conftest import Problem, Submit

NOT_JOB_IDS = [
    "x",
    "1",
    "%00",
    "'; DROP TABLE jobs",
    str(uuid4())[:-1],
    "\N{ARABIC-INDIC DIGIT ONE}" * 32,
]

METHODS = [
    ("GET", "/api/v1/generate", "OPTIONS, POST"),
    ("PUT", "/api/v1/chat", "OPTIONS, POST"),
    ("DELETE", "/api/v1/jobs", "GET, HEAD, OPTIONS"),
    ("POST", "/api/v1/health", "GET, HEAD, OPTIONS"),
    ("BREW", "/api/v1/models", "GET, HEAD, OPTIONS"),
]

LIST_QUERIES = [
    ("status=done", "status"),
    ("status=", "status"),
    ("limit=0", "limit"),
    ("limit=101", "limit"),
    ("limit=-1", "limit"),
    ("limit=ten", "limit"),
    ("limit=1.5", "limit"),
    ("limit=" + "9" * 5000, "limit"),
    ("after=x", "after"),
    ("after=", "after"),
    ("model=%00", "model"),
    ("sort=id", "sort"),
]

USAGE_QUERIES = [
    ("from=yesterday", "from"),
    ("from=2024-02-30", "from"),
    ("from=2024-13-01", "from"),
    ("to=", "to"),
    ("to=9999-12-31", "to"),
    ("from=0001-01-01", "from"),
    ("from=2024-01-02&to=2024-01-01", "body"),
    ("since=2024-01-01", "since"),
]

# Anybody can compute a checksum.
HOSTILE_KEYS = [
    str(keys.Key("\x00" * 12, "s" * 32)),
    str(keys.Key("a" * 12, "\x00" * 32)),
    str(keys.Key("\u00e9" * 12, "s" * 32)),
    str(keys.Key("_" * 12, "_" * 32)),
    "gq_" * 4000,
]


def _as(api: Flask, authorization: str | None) -> FlaskClient:
    client = api.test_client()
    if authorization is not None:
        client.environ_base["HTTP_AUTHORIZATION"] = authorization
    return client


def test_no_key_is_refused_and_the_answer_says_how_to_send_one(
    api: Flask, problem: Problem, subtests: Subtests
) -> None:
    for header in (None, "", "Bearer", "Bearer ", "Basic Z3E6eA==", "gq_x"):
        with subtests.test(header=header):
            response = _as(api, header).get("/api/v1/jobs")
            detail = problem(response, 401, "missing_credential")["detail"]
            assert "Authorization: Bearer" in detail
            assert response.headers["WWW-Authenticate"].startswith("Bearer")


def test_a_key_with_a_wrong_checksum_is_refused_before_any_query(
    settings: Settings, customer: Customer, problem: Problem, closed_port: int
) -> None:
    unreachable = f"postgresql://127.0.0.1:{closed_port}/x"
    api = create_app(settings.model_copy(update={"database_url": unreachable}))
    last = "a" if customer.key[-1] != "a" else "b"
    mistyped = _as(api, f"Bearer {customer.key[:-1]}{last}").get("/api/v1/jobs")
    problem(mistyped, 401, "invalid_credential")
    well_formed = _as(api, f"Bearer {customer.key}").get("/api/v1/jobs")
    problem(well_formed, 503, "database_unavailable")


def test_a_well_formed_key_that_was_never_issued_is_refused(api: Flask, problem: Problem) -> None:
    response = _as(api, f"Bearer {keys.generate()}").get("/api/v1/jobs")
    problem(response, 401, "invalid_credential")


def test_an_issued_key_with_another_secret_is_refused(
    api: Flask, customer: Customer, problem: Problem
) -> None:
    key = keys.parse(customer.key)
    assert key is not None
    forged = dataclasses.replace(key, secret=keys.generate().secret)
    problem(_as(api, f"Bearer {forged}").get("/api/v1/jobs"), 401, "invalid_credential")


def test_a_revoked_key_is_refused(
    client: FlaskClient, database: Database, customer: Customer, problem: Problem
) -> None:
    with database.transaction() as session:
        session.execute(
            update(ApiKey)
            .where(ApiKey.account_id == customer.id)
            .values(revoked_at=datetime.now(UTC))
        )
    problem(client.get("/api/v1/jobs"), 401, "invalid_credential")


def test_a_revoked_key_that_was_just_in_use_is_refused_when_its_second_is_over(
    client: FlaskClient,
    database: Database,
    customer: Customer,
    problem: Problem,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(authentication, "TRUSTED_SECONDS", 0.05)
    assert client.get("/api/v1/jobs").status_code == 200
    with database.transaction() as session:
        session.execute(
            update(ApiKey)
            .where(ApiKey.account_id == customer.id)
            .values(revoked_at=datetime.now(UTC))
        )
    time.sleep(0.06)
    problem(client.get("/api/v1/jobs"), 401, "invalid_credential")


def test_a_hostile_key_is_refused_like_any_wrong_one(
    api: Flask, problem: Problem, subtests: Subtests
) -> None:
    for key in HOSTILE_KEYS:
        with subtests.test(key=key):
            response = _as(api, f"Bearer {key}").get("/api/v1/jobs")
            problem(response, 401, "invalid_credential")


def test_the_word_bearer_may_be_written_in_any_case(api: Flask, customer: Customer) -> None:
    assert _as(api, f"bEARER  {customer.key}").get("/api/v1/jobs").status_code == 200


def test_another_accounts_job_cannot_be_read(
    api: Flask, submit: Submit, new_customer: Callable[[], Customer], problem: Problem
) -> None:
    job = submit().get_json()
    stranger = _as(api, f"Bearer {new_customer().key}")
    problem(stranger.get(f"/api/v1/jobs/{job['id']}"), 404, "job_not_found")


def test_another_accounts_job_cannot_be_cancelled(
    api: Flask,
    client: FlaskClient,
    submit: Submit,
    new_customer: Callable[[], Customer],
    problem: Problem,
) -> None:
    job = submit().get_json()
    stranger = _as(api, f"Bearer {new_customer().key}")
    problem(stranger.post(f"/api/v1/jobs/{job['id']}/cancel"), 404, "job_not_found")
    assert client.get(f"/api/v1/jobs/{job['id']}").get_json()["status"] == "queued"


def test_a_job_that_never_was_is_not_found(client: FlaskClient, problem: Problem) -> None:
    problem(client.get(f"/api/v1/jobs/{uuid4()}"), 404, "job_not_found")
    problem(client.post(f"/api/v1/jobs/{uuid4()}/cancel"), 404, "job_not_found")


def test_what_is_no_job_id_names_no_job(
    client: FlaskClient, problem: Problem, subtests: Subtests
) -> None:
    for text in NOT_JOB_IDS:
        with subtests.test(text=text):
            problem(client.get(f"/api/v1/jobs/{text}"), 404, "job_not_found")
            problem(client.post(f"/api/v1/jobs/{text}/cancel"), 404, "job_not_found")


def test_an_unknown_route_is_not_found(
    client: FlaskClient, problem: Problem, subtests: Subtests
) -> None:
    for path in ("/", "/api", "/api/v1/", "/api/v2/jobs", "/api/v1/jobs/x/y", "/%00", "/%ff"):
        with subtests.test(path=path):
            problem(client.get(path), 404, "route_not_found")


def test_a_wrong_method_is_refused_and_the_right_ones_are_named(
    client: FlaskClient, problem: Problem, subtests: Subtests
) -> None:
    for method, path, allowed in METHODS:
        with subtests.test(method=method, path=path):
            response = client.open(path, method=method)
            problem(response, 405, "method_not_allowed")
            assert response.headers["Allow"] == allowed


def test_a_bad_list_query_names_its_field(
    client: FlaskClient, problem: Problem, subtests: Subtests
) -> None:
    for query, field in LIST_QUERIES:
        with subtests.test(query=query):
            members = problem(client.get(f"/api/v1/jobs?{query}"), 422, "invalid_request")
            assert [each["field"] for each in members["errors"]] == [field]


def test_a_bad_usage_query_names_its_field(
    client: FlaskClient, problem: Problem, subtests: Subtests
) -> None:
    for query, field in USAGE_QUERIES:
        with subtests.test(query=query):
            members = problem(client.get(f"/api/v1/usage?{query}"), 422, "invalid_request")
            assert [each["field"] for each in members["errors"]] == [field]


def test_an_unexpected_failure_is_a_plain_500_that_tells_nothing(
    api: Flask, client: FlaskClient, problem: Problem, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("the secret of the house")

    monkeypatch.setattr(type(api.extensions["gptqueue"].catalog), "enabled", fail)
    response = client.get("/api/v1/models")
    problem(response, 500, "internal_error")
    assert "secret" not in response.get_data(as_text=True)
