"""What a worker does when its engine, and not the job, is at fault."""

import signal
from collections.abc import Callable
from uuid import UUID

from flask.testing import FlaskClient

from workers.process import Process


def submitted(client: FlaskClient) -> UUID:
    body = {"model": "fake", "prompt": "one two three", "max_tokens": 5}
    return UUID(client.post("/api/v1/generate", json=body).json["id"])


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
