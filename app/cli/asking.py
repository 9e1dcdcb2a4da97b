"""Submit, follow, print; and cancel when interrupted."""

import sys
from dataclasses import dataclass
from typing import Any

from app.cli.client import LONGEST_WAIT, Client, Json
from app.cli.following import Following
from app.cli.interrupts import put_off
from app.cli.printing import print_json
from app.cli.problem import FAILED, FINE, INTERRUPTED, Problem
from app.cli.screen import Screen, price

TERMINAL = {"succeeded", "failed", "cancelled", "expired"}
_CANCEL_SECONDS = 5  # a running job's engine sees it within that


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """How the answer is shown."""

    streams: bool = True
    as_json: bool = False
    cost: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of it: the exit code, and the job."""

    code: int
    job: Json


def parameters(**given: Any) -> Json:
    """The fields that were given."""
    return {name: value for name, value in given.items() if value not in (None, [])}


def choose_model(client: Client, wanted: str) -> str:
    """The model to ask, which is the only one where none is named; raises Problem."""
    if wanted:
        return wanted
    names = [model["name"] for model in client.get("/models")["data"]]
    if len(names) != 1:
        raise Problem(f"Which model? Name one with --model or GPTQUEUE_MODEL: {', '.join(names)}.")
    return str(names[0])


def words(text: str | None) -> str:
    """What was given, or what standard input says where it is "-" or nothing; raises Problem."""
    if text not in (None, "-"):
        return str(text)
    if sys.stdin.isatty():
        raise Problem("Nothing to say: give a text, or write one to standard input.")
    said = sys.stdin.read().strip()
    if not said:
        raise Problem("Standard input is empty.")
    return said


def ask(client: Client, endpoint: str, body: Json, *, look: Look) -> Answer:
    """Submit a job and show its answer; Ctrl-C cancels it."""
    screen = Screen(shows_text=not look.as_json)
    job: Json | None = None
    try:
        with put_off():  # else nobody would know whether there is a job
            job = client.submit(endpoint, body)
        ended = _watch(client, job, screen, look)
    except KeyboardInterrupt:
        screen.close()
        return _cancelled(client, job, screen, look)
    finally:
        screen.close()
    if look.as_json:
        print_json(ended)
    else:
        screen.finish(ended, cost=look.cost)
    return Answer(_code(ended, screen), ended)


def _watch(client: Client, job: Json, screen: Screen, look: Look) -> Json:
    if look.streams and not look.as_json:
        for event in Following(client, job["id"]).events():
            screen.note(event)
            job = event.data if event.name == "end" else job
        return job
    while job["status"] not in TERMINAL:
        screen.wait(job)
        job = client.job(job["id"], LONGEST_WAIT)
    return job


def _code(job: Json, screen: Screen) -> int:
    if job["status"] == "succeeded":
        return FINE
    error = job["error"] or {"message": f"it is {job['status']}."}
    screen.tell(f"gptqueue: The job {job['id']} {job['status']}: {error['message']}")
    return FAILED


def _cancelled(client: Client, job: Json | None, screen: Screen, look: Look) -> Answer:
    if job is None:
        raise Problem(
            "Interrupted before the API answered; gptqueue jobs list shows whether there is a job.",
            INTERRUPTED,
        )
    try:
        job = client.cancel(job["id"])
        if job["status"] not in TERMINAL:
            job = client.job(job["id"], _CANCEL_SECONDS)
    except Problem as problem:
        raise Problem(
            f"Interrupted, and the job {job['id']} goes on: {problem}", INTERRUPTED
        ) from None
    if look.as_json:
        print_json(job)
    state = "will be cancelled"
    if job["status"] in TERMINAL:
        before = job["status"] != "cancelled"
        state = f"had ended before ({job['status']})" if before else "is cancelled"
    screen.tell(f"gptqueue: Interrupted: the job {job['id']} {state}; {price(job)}.")
    return Answer(INTERRUPTED, job)
