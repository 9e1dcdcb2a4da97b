"""``gptqueue jobs``, ``models``, ``usage``, ``webhooks`` and ``top`` against the API over HTTP."""

import json
import re
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
import requests
from flask.testing import FlaskClient
from sqlalchemy import text

from app.api import create_app
from app.cli import jobs as jobs_command
from app.cli.top.pace import Pace
from app.cli.top.snapshot import ModelNow, Snapshot
from app.config import Settings
from app.db import Database
from app.webhooks import signing
from scripts.stack import ports
from tests.conftest import Customer
from tests.integration.commands import Commands, await_true, ended, first
from tests.integration.conftest import Command, Submit
from tests.integration.live import served
from workers.process import Process


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """Workers that say often how they are."""
    return settings.model_copy(update={"heartbeat_seconds": 0.2})


@pytest.fixture
def done(submit: Submit, client: FlaskClient) -> Callable[..., str]:
    """Submit a job and wait for its end; its id."""

    def run(**fields: object) -> str:
        job_id: str = submit(**{"max_tokens": 4, "seed": 1, **fields}).get_json()["id"]
        ends = {"succeeded", "failed", "cancelled"}
        await_true(lambda: client.get(f"/api/v1/jobs/{job_id}").get_json()["status"] in ends)
        return job_id

    return run


def test_jobs_are_listed_with_tokens_and_exact_money(
    command: Command, done: Callable[..., str], client: FlaskClient
) -> None:
    job_id = done()
    code, output, errors = command("jobs", "list")
    assert (code, errors) == (0, "")
    heading, line = output.splitlines()
    assert heading.split() == ["JOB", "STATUS", "MODEL", "CREATED", "TOKENS", "USD"]
    assert line.split()[:3] == [job_id, "succeeded", "fake"]
    assert line.split()[-2:] == ["7", "0.000011"]
    code, output, _ = command("jobs", "list", "--json")
    assert (code, json.loads(output)) == (0, client.get("/api/v1/jobs").get_json())


def test_a_list_that_is_longer_than_a_page_is_read_page_by_page(
    command: Command, done: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs_command, "_PAGE", 2)
    ids = [done() for _ in range(5)][::-1]
    found = json.loads(command("jobs", "list", "-n", "5", "--json")[1])
    assert [job["id"] for job in found["data"]] == ids
    assert (found["has_more"], found["next"]) == (False, None)
    found = json.loads(command("jobs", "list", "-n", "3", "--json")[1])
    assert [job["id"] for job in found["data"]] == ids[:3]
    assert (found["has_more"], found["next"]) == (True, ids[2])
    assert json.loads(command("jobs", "list", "--status", "failed", "--json")[1])["data"] == []


def test_a_job_is_shown_with_its_text_and_charge(
    command: Command, done: Callable[..., str], client: FlaskClient
) -> None:
    job_id = done()
    job = client.get(f"/api/v1/jobs/{job_id}").get_json()
    code, output, _ = command("jobs", "show", job_id)
    assert code == 0
    assert "charged   0.000011 USD" in output
    assert output.endswith(f"\n\n{job['output']['text']}\n")
    assert json.loads(command("jobs", "show", job_id, "--json")[1]) == job


def test_a_job_is_awaited_and_its_end_is_the_exit_code(
    command: Command, submit: Submit, database: Database
) -> None:
    job_id = submit(max_tokens=3).get_json()["id"]
    code, output, _ = command("jobs", "wait", job_id)
    assert (code, "succeeded" in output) == (0, True)
    with database.transaction() as session:
        session.execute(text("UPDATE jobs SET status = 'failed'"))
    code, output, _ = command("jobs", "wait", job_id, "--json")
    assert (code, json.loads(output)["status"]) == (1, "failed")


def test_cancelling_says_how_the_job_stands(command: Command, done: Callable[..., str]) -> None:
    job_id = done()
    assert command("jobs", "cancel", job_id) == (0, f"{job_id}  succeeded\n", "")
    code, output, errors = command("jobs", "cancel", job_id, "nonsense")
    assert (code, output, "no such job" in errors) == (1, f"{job_id}  succeeded\n", True)


def test_models_are_listed_with_prices(command: Command, client: FlaskClient) -> None:
    code, output, _ = command("models")
    assert (code, output.splitlines()[1].split()) == (
        0,
        ["fake", "1", "100", "1.000000", "2.000000"],
    )
    assert json.loads(command("models", "--json")[1]) == client.get("/api/v1/models").get_json()


def test_usage_is_added_up_and_the_credit_is_said(
    command: Command, done: Callable[..., str], client: FlaskClient
) -> None:
    done(), done()
    code, output, _ = command("usage")
    today = f"{datetime.now(UTC):%F}"
    _, day, total, credit = output.splitlines()
    assert code == 0
    assert day.split() == [today, "fake", "2", "6", "8", "0.000022"]
    assert total.split() == ["total", "2", "6", "8", "0.000022"]
    assert credit == "Credit: 0.999978 USD."
    assert json.loads(command("usage", "--json")[1]) == client.get("/api/v1/usage").get_json()
    _, output, _ = command("usage", "--from", "2020-01-01", "--to", "2020-01-02")
    assert output.splitlines()[1].split() == ["total", "0", "0", "0", "0.000000"]
    code, _, errors = command("usage", "--from", "yesterday")
    assert (code, "from" in errors) == (2, True)


def test_deliveries_are_received_verified_and_printed(
    gptqueue: Commands, done: Callable[..., str], customer: Customer, process: Process
) -> None:
    listening = gptqueue.start("webhooks", "listen", "--port", "0")
    url = re.search(r"http://127\.0\.0\.1:\d+/", first(listening))
    assert url
    job_id = done(webhook_url=url[0])
    process.courier.deliver_due()
    assert re.fullmatch(
        rf"\d\d:\d\d:\d\d  job.succeeded  {job_id}  succeeded  0.000011 USD\n", first(listening)
    )
    assert post(url[0], "whsec_" + "A" * 43 + "=") == 400
    assert "refused: its signature is wrong" in first(listening)
    assert post(url[0], customer.secret, age=400) == 400
    assert "refused: its timestamp is more than five minutes off" in first(listening)
    assert requests.post(url[0], data=b"{}", timeout=5).status_code == 400
    assert "refused: it is not signed (without an id)" in first(listening)
    listening.send_signal(signal.SIGINT)
    assert ended(listening) == (130, "", "")


def post(url: str, secret: str, age: float = 0) -> int:
    """Deliver an event of that age; the status of the answer."""
    body = b'{"type": "job.failed", "data": {}}'
    stamp = int(time.time() - age)
    headers = signing.headers(signing.Keys((secret,)), body, message_id="msg_1", timestamp=stamp)
    return requests.post(url, data=body, headers=headers, timeout=5).status_code


def test_as_json_a_delivery_is_a_line_and_a_secret_can_be_given(gptqueue: Commands) -> None:
    secret = signing.new_secret()
    gptqueue.environment["GPTQUEUE_API_KEY"] = ""  # nobody is asked
    words = ("webhooks", "listen", "--json", "--secret", secret, "--port")
    code, _, errors = gptqueue.run("webhooks", "listen", "--secret", "whsec_!")
    assert (code, "The secret cannot be used" in errors) == (2, True)
    port = ports.find_free()
    listening = gptqueue.start(*words, str(port))
    url = f"http://127.0.0.1:{port}/"
    await_true(lambda: not ports.is_free(port))
    assert post(url, secret) == 204
    line = json.loads(first(listening))
    assert line["verified"]
    assert (line["id"], line["event"]["type"]) == ("msg_1", "job.failed")
    code, _, errors = gptqueue.run(*words, str(port))
    assert (code, f"Port {port}" in errors) == (2, True)
    listening.terminate()
    assert ended(listening)[0] == 130


def test_top_shows_queues_and_workers(command: Command, done: Callable[..., str]) -> None:
    done()
    code, output, _ = command("top", "--once")
    assert code == 0
    assert "database ok" in output
    heading, line = output.splitlines()[2], output.splitlines()[4]
    assert heading.split()[:3] == ["MODEL", "QUEUED", "MESSAGES"]
    assert line.split()[:2] == ["fake", "0"]
    code, output, _ = command("top", "--once", "--json")
    found = json.loads(output)
    assert (code, found["ready"], found["models"]["fake"]["queued"]) == (0, True, 0)
    assert found["models"]["fake"]["tokens_per_second"] is None


def test_top_counts_tokens_per_second(
    gptqueue: Commands, submit: Submit, catalog_file: Path
) -> None:
    watching = gptqueue.start("top", "--json", "--interval", "0.2")
    first(watching)
    for _ in range(5):
        submit(max_tokens=8)  # no answer of the fake engine is shorter
    lines = ""

    def seen() -> bool:
        nonlocal lines
        lines += first(watching)
        whole = [json.loads(line) for line in lines.splitlines(keepends=True) if line[-1] == "\n"]
        found = [each["models"]["fake"] for each in whole]
        return any(each["tokens_per_second"] and each["generated_tokens"] >= 40 for each in found)

    await_true(seen)
    watching.send_signal(signal.SIGINT)
    assert ended(watching)[0] == 130


def test_top_of_an_api_without_a_database_exits_with_1_and_says_so(command: Command) -> None:
    nowhere = Settings(database_url="postgresql://127.0.0.1:1/x", redis_url="redis://127.0.0.1:1/0")
    with served(create_app(nowhere)) as url:
        code, output, _ = command("--url", url, "top", "--once")
    assert code == 1
    assert "database does not answer  broker does not answer" in output


def test_top_goes_on_until_it_is_interrupted(gptqueue: Commands) -> None:
    watching = gptqueue.start("top", "--json", "--interval", "0.2")
    lines = first(watching)
    await_true(lambda: lines.count("\n") >= 1)
    watching.send_signal(signal.SIGINT)
    code, rest, errors = ended(watching)
    assert (code, errors) == (130, "")
    assert all(json.loads(line)["ready"] for line in (lines + rest).splitlines())


def test_the_rate_is_the_growth_of_each_worker_over_some_seconds() -> None:
    model = ModelNow("m", 0, {}, [])
    begin = Snapshot(True, True, True, [model], has_metrics=True, generated={}, at=100.0)
    pace = Pace()
    assert pace.note(replace(begin, generated={("m", "a"): 50})) is None
    rates = pace.note(replace(begin, generated={("m", "a"): 90, ("m", "b"): 1000}, at=102.0))
    assert rates == {"m": 20.0}  # what b did before it was seen is nobody's
    again = {("m", "a"): 30, ("m", "b"): 1010}  # a's process was started again
    assert pace.note(replace(begin, generated=again, at=104.0)) == {"m": (40 + 30 + 10) / 4}
    assert pace.note(replace(begin, generated=again, at=140.0)) == {"m": 0.0}
