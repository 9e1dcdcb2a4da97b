"""A job's way through every process, seen from outside: over HTTP, in the broker, in the logs."""

import base64
import json
from uuid import uuid4

import pytest
import requests
from redis import Redis
from standardwebhooks import Webhook

from app.queues import GENERATE_TASK, generate_queue, make_celery
from tests.acceptance.inbox import Inbox
from tests.acceptance.stack import Client, Part, Stack, eventually

pytestmark = pytest.mark.usefixtures("api", "sweeping")

INPUT, OUTPUT = 1, 2  # micro-USD per token, as in the catalog


def outcomes(job: dict) -> list[str]:
    return [attempt["outcome"] for attempt in job["attempts"]]


@pytest.mark.usefixtures("worker")
def test_a_job_is_generated_charged_and_sent_as_a_webhook_that_others_can_verify(
    me: Client,
) -> None:
    with Inbox() as inbox:
        hook = f"http://{inbox.address}/hook"
        job_id = me.submit("one two three", max_tokens=4, webhook_url=hook)
        posted = eventually(lambda: inbox.posted, "the webhook arrived")[0]

    job = me.job(job_id)
    assert job["status"] == "succeeded"
    assert len(job["output"]["text"].split()) == 4
    assert job["usage"] == {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}
    assert job["charge"]["state"] == "charged"
    assert job["charge"]["charged_micros"] == 3 * INPUT + 4 * OUTPUT
    assert outcomes(job) == ["succeeded"]

    event = Webhook(me.webhook_secret).verify(posted.body, posted.headers)
    assert posted.path == "/hook"
    told = {**job, "webhook": None}  # the event does not know how it goes with itself
    assert event == {"type": "job.succeeded", "timestamp": job["finished"], "data": told}


@pytest.mark.usefixtures("worker")
def test_a_request_that_waits_returns_when_the_job_ends_and_not_before(me: Client) -> None:
    job_id = me.submit(max_tokens=20)

    answer = me.session.get(
        f"{me.url}/api/v1/jobs/{job_id}", headers={"Prefer": "wait=60"}, timeout=50
    )

    assert answer.json()["status"] == "succeeded"


@pytest.mark.usefixtures("worker")
def test_a_submit_that_waits_answers_with_the_finished_job(me: Client) -> None:
    answer = me.session.post(
        f"{me.url}/api/v1/generate",
        json={"model": "fake", "prompt": "one", "max_tokens": 2},
        headers={"Prefer": "wait=60"},
        timeout=50,
    )

    assert answer.status_code == 202
    assert answer.json()["status"] == "succeeded"


@pytest.mark.usefixtures("worker")
def test_a_running_job_that_is_cancelled_stops_early_and_pays_for_its_part(me: Client) -> None:
    job_id = me.submit(max_tokens=3000)
    me.until(job_id, "running")
    assert me.get(f"jobs/{job_id}", Prefer="wait=1")["status"] == "running"

    me.post(f"jobs/{job_id}/cancel")

    assert_paid_for_a_part(me.until(job_id, "cancelled", "succeeded"), "cancelled", "cancelled")


@pytest.mark.usefixtures("worker")
def test_a_running_job_past_its_deadline_expires_and_pays_for_its_part(me: Client) -> None:
    job_id = me.submit(max_tokens=3000, deadline_seconds=2)

    assert_paid_for_a_part(me.until(job_id, "expired", "succeeded"), "expired", "deadline")


def assert_paid_for_a_part(job: dict, status: str, finish_reason: str) -> None:
    assert (job["status"], job["output"]["finish_reason"]) == (status, finish_reason)
    written = job["usage"]["completion_tokens"]
    assert 0 < written < 3000
    assert written == len(job["output"]["text"].split())
    assert job["charge"]["charged_micros"] == 3 * INPUT + written * OUTPUT
    assert outcomes(job) == [status]


def test_a_job_that_no_worker_starts_before_its_deadline_is_free(me: Client) -> None:
    job_id = me.submit(model="fragile", deadline_seconds=1)

    job = me.until(job_id, "expired")

    assert job["error"]["code"] == "deadline_before_start"
    assert (job["charge"]["state"], job["charge"]["charged_micros"]) == ("released", 0)
    assert job["attempts"] == []


def test_jobs_wait_for_a_worker_and_run_when_one_starts_although_the_broker_was_emptied(
    me: Client, stack: Stack
) -> None:
    job_ids = [me.submit(model="lonely", max_tokens=1) for _ in range(5)]
    waiting = [me.job(job_id)["waiting"] for job_id in job_ids]
    assert waiting == [
        {"reason": "no_worker", "position": at, "eta_seconds": None} for at in range(5)
    ]

    with Redis.from_url(stack.settings.redis_url) as redis:
        redis.flushall()
    worker = stack.worker("lonely")

    for job_id in job_ids:
        assert outcomes(me.until(job_id, "succeeded")) == ["succeeded"]
    worker.stop()
    assert worker.process.returncode == 0


def test_the_worker_of_a_base_hears_of_the_jobs_of_its_adapters(me: Client, stack: Stack) -> None:
    worker = stack.worker("lonely")
    job = me.until(me.submit(model="tuned", max_tokens=1), "succeeded")
    assert (job["model"], outcomes(job)) == ("tuned", ["succeeded"])
    worker.stop()
    assert worker.process.returncode == 0


def test_a_message_in_the_broker_carries_the_jobs_id_and_nothing_else(
    me: Client, stack: Stack
) -> None:
    job_id = me.submit("marker-prompt", model="fragile", metadata={"label": "marker-label"})

    with Redis.from_url(stack.settings.redis_url) as redis:
        raw = redis.lindex(generate_queue("fragile"), 0)
    me.post(f"jobs/{job_id}/cancel")

    arguments, keywords, embedded = json.loads(base64.b64decode(json.loads(raw)["body"]))
    assert (arguments, keywords) == ([job_id], {})
    assert not any(embedded.values())
    assert b"marker" not in raw
    assert me.key.encode() not in raw


def test_a_job_of_a_killed_worker_is_done_by_the_next_one_and_charged_once(
    me: Client, stack: Stack
) -> None:
    worker = stack.worker("fragile")
    job_id = me.submit(model="fragile", max_tokens=60)
    me.until(job_id, "running")

    worker.kill()
    worker.start()

    job = me.until(job_id, "succeeded")
    assert outcomes(job) == ["lost", "succeeded"]
    assert job["charge"]["charged_micros"] == 3 * INPUT + 60 * OUTPUT
    used = me.get("usage")["data"]
    assert [(row["requests"], row["charged_micros"]) for row in used] == [
        (1, 3 * INPUT + 60 * OUTPUT)
    ]
    worker.stop()


def test_messages_about_unknown_and_ended_jobs_are_dropped_quietly(
    me: Client, stack: Stack, worker: Part
) -> None:
    before = me.until(me.submit(max_tokens=1), "succeeded")
    said = len(worker.log.read_text())
    celery = make_celery(stack.settings)
    for stale in [before["id"], str(uuid4())]:
        celery.send_task(GENERATE_TASK, args=[stale], queue=generate_queue("fake"))
    celery.close()

    with Redis.from_url(stack.settings.redis_url) as redis:
        eventually(lambda: not unread(redis, "fake"), "the messages were taken")
    # Behind them in the queue: when it has ended, they have been handled.
    me.until(me.submit(max_tokens=20), "succeeded")

    assert me.job(before["id"]) == before
    since = [json.loads(line) for line in worker.log.read_text()[said:].splitlines()]
    assert {event["level"] for event in since} == {"info"}
    assert not [event for event in since if event.get("job_id") == before["id"]]


def unread(redis: Redis, model: str) -> int:
    return redis.llen(generate_queue(model))


def test_a_model_that_cannot_load_says_why_and_its_jobs_say_that_they_wait_for_it(
    me: Client, stack: Stack
) -> None:
    reason = "broken, version 1: The fake engine was told to fail at load."
    worker = stack.worker("broken")

    assert worker.process.wait(timeout=60) != 0
    assert [event["error"] for event in worker.events("model_load_failed")] == [reason]
    status = requests_get(f"{me.url}/api/v1/status")["models"]["broken"]
    assert status["errors"] == [reason]
    assert (status["ready"], status["workers"]["failed"]) == (False, 1)
    waiting = me.job(me.submit(model="broken"))["waiting"]
    assert waiting == {"reason": "model_failed", "position": 0, "eta_seconds": None}


def requests_get(url: str) -> dict:
    with requests.Session() as session:
        session.trust_env = False
        return session.get(url, timeout=30).json()
