"""What a worker does when its engine, and not the job, is at fault."""

import signal
from collections.abc import Callable
from contextlib import ExitStack
from uuid import UUID

import pytest
from flask.testing import FlaskClient
from sqlalchemy import text

from app.db import Database
from app.jobs import finish
from app.jobs.rescue import rescue
from workers.process import Process

RUN_OUT = "UPDATE jobs SET lease_until = now() - interval '1 second' WHERE status = 'running'"


def submitted(client: FlaskClient) -> UUID:
    body = {"model": "fake", "prompt": "one two three", "max_tokens": 5}
    return UUID(client.post("/api/v1/generate", json=body).json["id"])


def test_a_lease_is_called_lost_when_its_job_was_taken_back_and_not_when_it_has_ended(
    client: FlaskClient,
    process: Process,
    database: Database,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A beat may come between the end of a job and letting go of its lease."""
    serving = process.servings["generate.fake"]
    leases = []
    for _ in range(3):
        submitted(client)
        claimed = serving.claim_next()
        assert claimed
        leases.append(claimed.lease)
    ended, handed_back, lost = leases
    process.finish(finish.failed(ended, code="x", message="x"))
    process.hand_back(handed_back)
    with database.transaction() as session:
        session.execute(text(RUN_OUT))
        rescue(session, max_attempts=3, base_url="http://here")
    with ExitStack() as held:
        for each in leases:
            held.enter_context(serving.heartbeat.keeping(each))
        serving.heartbeat.beat()
    (called_lost,) = [each for each in caplog.records if "lease_lost" in str(each.msg)]
    assert str(lost.job_id) in str(called_lost.msg)


def test_a_worker_whose_engine_died_stops_itself_and_leaves_the_job_to_the_rescue(
    client: FlaskClient, process: Process, work: Callable[[], None]
) -> None:
    job_id = submitted(client)
    stopped = []
    before = signal.signal(signal.SIGTERM, lambda *_: stopped.append(True))
    try:
        process.servings["generate.fake"]._engine.close()
        work()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert stopped == [True]
    # A job that kills engines must run out of attempts, so this one does not count as handed back.
    job = client.get(f"/api/v1/jobs/{job_id}").json
    assert (job["status"], job["charge"]["state"]) == ("running", "held")
    assert [each["outcome"] for each in job["attempts"]] == ["running"]
