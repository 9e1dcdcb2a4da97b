"""Cancelling, in every state that a job can be in, and twice."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient
from sqlalchemy import text

from app.db import Database
from tests.conftest import CATALOG
from tests.integration.conftest import Submit
from workers.generate import generate
from workers.process import Process
from workers.sweep import expire_late

Read = Callable[[str], Any]


@pytest.fixture
def catalog_file(tmp_path: Path) -> Path:
    """The fake model, one that never ends and one that always fails."""
    path = tmp_path / "catalog.toml"
    fake = CATALOG.partition("[models.disabled]")[0]
    others = [
        fake.replace("models.fake", f"models.{name}").replace("fake:", source)
        for name, source in (("hanging", "fake:hang_every=1"), ("failing", "fake:fail_every=1"))
    ]
    path.write_text("".join([fake, *others]))
    return path


@pytest.fixture
def read(client: FlaskClient) -> Read:
    """Read a job."""
    return lambda job_id: client.get(f"/api/v1/jobs/{job_id}").get_json()


@pytest.fixture
def cancel(client: FlaskClient) -> Read:
    """Cancel a job; returns what the API answers."""

    def post(job_id: str) -> Any:
        response = client.post(f"/api/v1/jobs/{job_id}/cancel")
        assert response.status_code == 200
        return response.get_json()

    return post


@contextmanager
def _running(process: Process, model: str) -> Iterator[None]:
    process.serve([f"generate.{model}"], f"worker-{model}")
    worker = threading.Thread(
        target=generate, args=(process, process.servings[f"generate.{model}"])
    )
    worker.start()
    yield
    worker.join()


def _balance(client: FlaskClient) -> Any:
    return client.get("/api/v1/usage").get_json()["balance"]


def test_a_queued_job_is_cancelled_at_once_and_costs_nothing(
    client: FlaskClient, submit: Submit, cancel: Read, work: Callable[[], None]
) -> None:
    job = submit().get_json()
    cancelled = cancel(job["id"])
    assert cancelled["status"] == "cancelled"
    assert cancelled["charge"]["state"] == "released"
    assert cancelled["finished"] is not None
    assert _balance(client) == {"available_micros": 1_000_000, "held_micros": 0}
    work()
    assert cancel(job["id"]) == cancelled


@pytest.mark.timeout(60)
def test_a_running_job_is_cancelled_by_its_engine_and_pays_for_its_part(
    client: FlaskClient, submit: Submit, cancel: Read, read: Read, process: Process
) -> None:
    job = submit(model="hanging").get_json()
    with _running(process, "hanging"):
        while read(job["id"])["status"] == "queued":
            time.sleep(0.01)
        asked = [cancel(job["id"]), cancel(job["id"])]
    assert {each["status"] for each in asked} <= {"running", "cancelled"}
    cancelled = read(job["id"])
    assert cancelled["status"] == "cancelled"
    assert cancelled["output"]["finish_reason"] == "cancelled"
    assert cancelled["charge"]["state"] == "charged"
    assert cancelled["charge"]["charged_micros"] == cancelled["usage"]["prompt_tokens"] == 3
    assert _balance(client) == {"available_micros": 1_000_000 - 3, "held_micros": 0}
    assert cancel(job["id"]) == cancelled


def test_cancelling_a_job_that_succeeded_changes_nothing(
    submit: Submit, cancel: Read, read: Read, work: Callable[[], None]
) -> None:
    job = submit().get_json()
    work()
    before = read(job["id"])
    assert before["status"] == "succeeded"
    assert cancel(job["id"]) == before == read(job["id"])


def test_cancelling_a_job_that_failed_changes_nothing(
    submit: Submit, cancel: Read, read: Read, process: Process
) -> None:
    job = submit(model="failing").get_json()
    with _running(process, "failing"):
        pass
    before = read(job["id"])
    assert (before["status"], before["error"]["code"]) == ("failed", "engine_failed")
    assert before["charge"]["state"] == "released"
    assert cancel(job["id"]) == before


def test_cancelling_a_job_that_expired_changes_nothing(
    submit: Submit, cancel: Read, read: Read, process: Process, database: Database
) -> None:
    job = submit().get_json()
    with database.transaction() as session:
        session.execute(text("UPDATE jobs SET deadline_at = now()"))
    expire_late(process)
    before = read(job["id"])
    assert (before["status"], before["charge"]["state"]) == ("expired", "released")
    assert cancel(job["id"]) == before


@pytest.mark.timeout(60)
def test_many_cancels_at_once_release_the_hold_once(
    client: FlaskClient, submit: Submit, cancel: Read
) -> None:
    job = submit().get_json()
    answers: list[Any] = []
    threads = [threading.Thread(target=lambda: answers.append(cancel(job["id"]))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [each["status"] for each in answers] == ["cancelled"] * 8
    assert _balance(client) == {"available_micros": 1_000_000, "held_micros": 0}
