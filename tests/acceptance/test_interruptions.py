"""A worker with a job in hand, while its broker restarts and when it is asked to stop."""

import pytest

from scripts.stack import valkey
from tests.acceptance.stack import Client, Part, Stack, eventually

pytestmark = pytest.mark.usefixtures("api", "sweeping")


@pytest.fixture(scope="module")
def valkey_url(server: valkey.Broker, broker: Part) -> str:
    """In place of the broker that all other modules share."""
    return server.url


def outcomes(job: dict) -> list[str]:
    return [attempt["outcome"] for attempt in job["attempts"]]


def test_a_busy_worker_survives_a_restart_of_the_broker_and_goes_on(
    me: Client, worker: Part, server: valkey.Broker, broker: Part
) -> None:
    running = me.submit(max_tokens=100)
    me.until(running, "running")

    broker.stop()
    submitted_without_broker = me.submit(max_tokens=1)
    job = me.until(running, "succeeded")
    broker.start()
    eventually(server.ready, "the broker is up again")

    assert outcomes(job) == ["succeeded"]
    for job_id in [submitted_without_broker, me.submit(max_tokens=1)]:
        assert outcomes(me.until(job_id, "succeeded")) == ["succeeded"]
    assert worker.process.poll() is None


def test_a_worker_that_is_asked_to_stop_finishes_its_jobs_first(me: Client, stack: Stack) -> None:
    worker = stack.worker("lonely")
    job_ids = [me.submit(model="lonely", max_tokens=60) for _ in range(4)]
    for job_id in job_ids:
        me.until(job_id, "running")

    worker.stop()

    assert worker.process.returncode == 0
    for job in map(me.job, job_ids):
        assert job["status"] == "succeeded"
        assert outcomes(job) == ["succeeded"]
