"""What the tests of the API share."""

from collections.abc import Callable
from typing import Any

import pytest
from flask.testing import FlaskClient
from sqlalchemy import func, select
from werkzeug.test import TestResponse

from app.billing.tables import Balance
from app.db import Database
from app.jobs.tables import Job
from scripts.stack import ports
from tests.conftest import Customer

Problem = Callable[[TestResponse, int, str], dict[str, Any]]
Submit = Callable[..., TestResponse]
PostText = Callable[..., TestResponse]


@pytest.fixture
def problem() -> Problem:
    """Check that an answer is RFC 9457 problem details of one kind; returns its members."""

    def check(response: TestResponse, status: int, code: str) -> dict[str, Any]:
        members = response.get_json()
        assert (response.status_code, members["code"]) == (status, code), members
        assert response.content_type == "application/problem+json"
        assert members["status"] == status
        assert members["type"] == f"urn:gptqueue:error:{code}"
        assert members["title"]
        assert members["detail"]
        assert members["request_id"] == response.headers["X-Request-ID"]
        return members

    return check


@pytest.fixture
def submit(client: FlaskClient) -> Submit:
    """Submit a small prompt; what the test names is added or replaced."""

    def post(path: str = "generate", **fields: Any) -> TestResponse:
        text = {"messages": [{"role": "user", "content": "hi"}]} if path == "chat" else {}
        body = {"model": "fake", **(text or {"prompt": "one two three"}), **fields}
        return client.post(f"/api/v1/{path}", json=body)

    return post


@pytest.fixture
def post_text(client: FlaskClient) -> PostText:
    """Post a body that no JSON library would write."""

    def post(body: str | bytes, path: str = "generate") -> TestResponse:
        return client.post(f"/api/v1/{path}", data=body, content_type="application/json")

    return post


@pytest.fixture
def untouched(database: Database, customer: Customer) -> Callable[[], bool]:
    """Whether the account is as it was opened: no job, nothing held, nothing spent."""
    with database.transaction() as session:
        credit = session.get_one(Balance, customer.id).available_micros

    def look() -> bool:
        with database.transaction() as session:
            balance = session.get_one(Balance, customer.id)
            jobs = session.scalar(select(func.count()).select_from(Job))
            return (jobs, balance.available_micros, balance.held_micros) == (0, credit, 0)

    return look


@pytest.fixture
def closed_port() -> int:
    """A port of this machine on which nothing listens."""
    return ports.find_free()
