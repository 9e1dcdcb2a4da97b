"""Logs: one JSON object a line, with ids, and never with what customers wrote or hold."""

import json
from collections.abc import Callable
from contextlib import redirect_stdout
from io import StringIO
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import text

from app import logs
from app.config import Settings
from app.db import Database
from tests.conftest import Customer
from workers.generate import generate
from workers.process import Process, compose
from workers.sweep import sweep

MARKER = "zanzibar"
Lines = Callable[[], list[dict[str, Any]]]


@pytest.fixture
def said(api: Flask, settings: Settings) -> Callable[[], str]:
    """What was logged so far, by the API and by the worker in this process."""
    output = StringIO()
    with redirect_stdout(output):
        logs.configure(settings)
    return output.getvalue


@pytest.fixture
def lines(said: Callable[[], str]) -> Lines:
    """The log lines so far; each has to be JSON."""
    return lambda: [json.loads(line) for line in said().splitlines()]


def _submit(client: FlaskClient, path: str = "generate", **fields: Any) -> Any:
    body = {"model": "fake", "prompt": f"say {MARKER}", "max_tokens": 8, **fields}
    headers = {"X-Request-ID": "request-of-the-test"}
    response = client.post(f"/api/v1/{path}", json=body, headers=headers)
    return response.get_json()


def test_every_line_of_a_jobs_way_carries_the_request_id_and_the_job_id(
    lines: Lines, client: FlaskClient, work: Callable[[], None]
) -> None:
    job = _submit(client)
    work()
    found = {line["event"]: line for line in lines() if line.get("job_id") == job["id"]}
    assert {"job_submitted", "request", "job_started", "job_generated"} <= found.keys()
    assert {line["request_id"] for line in found.values()} == {"request-of-the-test"}
    for line in found.values():
        assert {"event", "level", "timestamp", "logger"} <= line.keys()


def test_a_request_is_logged_with_method_path_and_status(lines: Lines, client: FlaskClient) -> None:
    client.get(f"/api/v1/jobs?status={MARKER}")
    (line,) = [line for line in lines() if line["event"] == "request"]
    assert (line["method"], line["path"], line["status"]) == ("GET", "/api/v1/jobs", 422)
    assert "job_id" not in line


def test_no_log_holds_a_prompt_an_output_or_a_key(
    said: Callable[[], str],
    lines: Lines,
    client: FlaskClient,
    customer: Customer,
    settings: Settings,
) -> None:
    job = _submit(client, webhook_url="http://127.0.0.1:9/", metadata={"note": MARKER})
    _submit(client, prompt=f"{MARKER}\x00", stop=[MARKER])
    _submit(client, path="chat", messages=[{"role": MARKER, "content": MARKER}])
    client.get("/api/v1/webhooks/default/secret")
    process = compose(settings)
    process.serve(["generate.fake"], "worker-test")
    generate(process, process.servings["generate.fake"])
    process.courier.deliver_due()
    sweep(process)
    process.stop()
    process.database.close()
    done = client.get(f"/api/v1/jobs/{job['id']}").get_json()
    events = {line["event"] for line in lines()}
    assert {"job_generated", "webhook_sent"} <= events
    printed = said()
    assert MARKER not in printed
    assert done["output"]["text"] not in printed
    for secret in (customer.key, customer.key.split("_")[2], customer.secret):
        assert secret not in printed


def test_a_crash_in_the_database_is_logged_without_what_was_to_be_stored(
    said: Callable[[], str], lines: Lines, client: FlaskClient, database: Database
) -> None:
    with database.transaction() as session:
        session.execute(text("ALTER TABLE prompts ADD CHECK (messages IS NULL)"))
        session.execute(text("ALTER TABLE jobs ADD CHECK (metadata = '{}')"))
    assert _submit(client)["code"] == "internal_error"
    assert _submit(client, metadata={"note": MARKER})["code"] == "internal_error"
    crashes = [line for line in lines() if line["level"] == "error"]
    assert len(crashes) == 2
    for line in crashes:
        assert "IntegrityError" in json.dumps(line["exception"])
        assert line["request_id"] == "request-of-the-test"
    assert MARKER not in said()


def test_a_crash_of_an_engine_is_logged_without_the_prompt(
    said: Callable[[], str],
    lines: Lines,
    client: FlaskClient,
    process: Process,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def crash(request: Any) -> None:
        (message,) = request.messages
        prompt = message["content"]
        assert MARKER in prompt
        raise KeyError(prompt) from ValueError(f"cannot read {request.messages}")

    serving = process.servings["generate.fake"]
    monkeypatch.setattr(serving, "run", crash)
    job = _submit(client)
    generate(process, serving)
    (line,) = [line for line in lines() if line["event"] == "job_crashed"]
    assert (line["job_id"], line["error"]) == (job["id"], "KeyError")
    assert MARKER not in said()
    failed = client.get(f"/api/v1/jobs/{job['id']}").get_json()
    assert failed["error"]["code"] == "internal_error"
    assert failed["charge"]["state"] == "released"
