"""The first job: a chat with a webhook, followed from the request to the receiver."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from scripts.stack.client import Client, Json
from scripts.stack.problem import Problem
from scripts.stack.receiver import Delivery, Receiver
from scripts.stack.screen import Screen

QUESTION = "What is a job queue, and why is it useful? Answer in two sentences."
TERMINAL = {"succeeded", "failed", "cancelled", "expired"}
JOB_SECONDS = 300
WEBHOOK_SECONDS = 60
TOKENS_PER_PRICE = 1_000_000


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of it; ``failures`` has a sentence for each thing that is not as it should be."""

    model: str
    job: Json
    delivery: Delivery | None
    failures: list[str] = field(default_factory=list)


def run(
    client: Client, receiver: Receiver, *, model: str, screen: Screen, tend: Callable[[], None]
) -> Outcome:
    """Submit the job, wait for its end and for its webhook; ``tend`` is called while waiting."""
    job_id = submit(client, model, receiver.url)
    with screen.step(f"Asking {model}", f"{model} has ended its first job"):
        job = wait_for_end(client, job_id, tend)
    with screen.step("Waiting for its webhook", "Done waiting for its webhook"):
        delivery = wait_for_webhook(receiver, job_id, tend)
    failures = [*job_failures(job), *charge_failures(job), *webhook_failures(job, delivery)]
    return Outcome(model=model, job=job, delivery=delivery, failures=failures)


def submit(client: Client, model: str, webhook_url: str) -> str:
    """Post the job; raises Problem when it is refused."""
    messages = [{"role": "user", "content": QUESTION}]
    request = {"model": model, "messages": messages, "max_tokens": 120, "temperature": 0}
    answer = client.chat({**request, "webhook_url": webhook_url})
    if answer.status_code != 202:
        raise Problem(f"The first job was refused ({answer.status_code}): {answer.text}")
    return str(answer.json()["id"])


def wait_for_end(client: Client, job_id: str, tend: Callable[[], None]) -> Json:
    """The job as it ended, or as it is when our patience ends."""
    deadline = time.monotonic() + JOB_SECONDS
    while True:
        job = client.job(job_id, wait_seconds=1)
        if job["status"] in TERMINAL or time.monotonic() > deadline:
            return job
        tend()


def wait_for_webhook(receiver: Receiver, job_id: str, tend: Callable[[], None]) -> Delivery | None:
    """The event about this job."""
    deadline = time.monotonic() + WEBHOOK_SECONDS
    while time.monotonic() < deadline:
        if delivery := receiver.of_job(job_id):
            return delivery
        tend()
        time.sleep(0.05)
    return None


def job_failures(job: Json) -> list[str]:
    """Did it succeed?"""
    if job["status"] == "succeeded":
        return []
    error = job.get("error") or job.get("waiting") or {}
    return [f"The job is {job['status']}, not succeeded. {error}"]


def charge_failures(job: Json) -> list[str]:
    """Does it cost what its tokens cost at the price it was sold at?"""
    charge, expected = job["charge"], amount(job)
    if charge["state"] != "charged":
        return [f"The charge is {charge['state']}, not charged."]
    if charge["charged_micros"] != expected:
        return [f"The charge is {charge['charged_micros']}, price x tokens is {expected}."]
    return []


def amount(job: Json) -> int | None:
    """Price x tokens, recomputed here: rounded once, up, to a whole micro-USD."""
    usage, price = job.get("usage"), job["charge"]["price"]
    if not usage:
        return None
    exact = (
        usage["prompt_tokens"] * price["input_micros_per_million_tokens"]
        + usage["completion_tokens"] * price["output_micros_per_million_tokens"]
    )
    return (int(exact) + TOKENS_PER_PRICE - 1) // TOKENS_PER_PRICE


def webhook_failures(job: Json, delivery: Delivery | None) -> list[str]:
    """Did the customer hear of it, in a way that proves who says so?"""
    if delivery is None:
        return ["No webhook has arrived."]
    if not delivery.verified:
        return ["The webhook's signature is wrong."]
    if delivery.type != f"job.{job['status']}":
        return [f"The webhook says {delivery.type}, the job is {job['status']}."]
    return []
