"""How long it takes until jobs end as quickly as before, when PostgreSQL went away under load.

Each client submits a job a second and waits for its end, so the load is the same all the time and
no backlog makes up for an outage; what is refused is tried again. A rate is that of ``--seconds``;
PostgreSQL says when each job ended. Recovered is the moment from which on they end at 90 % of the
rate before.
"""

import argparse
import http.client
import json
import signal
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import replace
from typing import Any

import psycopg2

from scripts.benching import bed
from scripts.benching.bed import Bed
from scripts.benching.figures import Figure, alone
from scripts.benching.load import Load
from scripts.benching.notes import Notes
from scripts.benching.submit import product
from scripts.stack.ports import LOCALHOST
from scripts.stack.problem import Problem

Harm = Callable[[Bed], None]

ENOUGH = 0.9  # of the rate before
GIVEN_UP_SECONDS = 120.0
PACE_SECONDS = 1.0
AGAIN_SECONDS = 0.2  # after a 503
POLL_SECONDS = 0.5
ENDS = (
    "SELECT extract(epoch FROM finished_at)::float FROM jobs WHERE finished_at > to_timestamp(%s)"
)
LEFT = "SELECT id FROM jobs WHERE finished_at IS NULL LIMIT 1"
SUCCEEDED = "SELECT id FROM jobs WHERE status = 'succeeded'"


def run(options: argparse.Namespace, notes: Notes) -> list[Figure]:
    """Each harm in each round; raises Problem when a job is lost."""
    found: dict[str, list[float]] = {name: [] for name in HARMS}
    rates = []
    with bed.made() as ground:
        with notes.doing("starting the API, the workers and beat"):
            parts = ground.stack
            ground.start(parts.api(), parts.worker(bed.MODEL), parts.delivery(), parts.beat())
        request = product(ground)
        headers = {**request.headers, "Content-Type": "application/json", "Prefer": "wait=60"}
        request = replace(request, headers=headers)
        with under_load(request, options.connections) as accepted:
            for name, harm in [*HARMS.items()] * options.rounds:
                rate, seconds = measure(ground, harm, options.seconds)
                rates.append(rate)
                found[name].append(seconds)
                notes.say(f"{name}: {rate:,.0f} jobs/s before, recovered after {seconds:.1f} s")
        check(ground, accepted)
    times = [alone(f"recovery_{name}", "s", values) for name, values in found.items()]
    return [alone("rate_before", "jobs/s", rates), *times]


def end_connections(ground: Bed) -> None:
    """All of them but this one, as an administrator can."""
    with closing(psycopg2.connect(ground.stack.database_url)) as connection:
        connection.cursor().execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
        )


HARMS: dict[str, Harm] = {
    "restarted": lambda ground: ground.restart_postgres(signal.SIGINT),
    "crashed": lambda ground: ground.restart_postgres(signal.SIGQUIT),
    "terminated": end_connections,
}


def measure(ground: Bed, harm: Harm, seconds: float) -> tuple[float, float]:
    """Jobs per second before the harm, and the seconds from its beginning until recovery."""
    time.sleep(2 * seconds)  # one to come to speed
    struck = time.time()
    harm(ground)
    while time.time() < struck + GIVEN_UP_SECONDS:
        time.sleep(POLL_SECONDS)
        ends = [end - struck for (end,) in ask(ground, ENDS, struck - seconds)]
        rate = sum(end <= 0 for end in ends) / seconds
        if not rate:
            raise Problem("No job ended before anything was done to PostgreSQL.")
        after = recovered(ends, rate, now=time.time() - struck, seconds=seconds)
        if after is not None:
            return rate, after
    raise Problem(f"Not recovered after {GIVEN_UP_SECONDS:.0f} s.")


def recovered(ends: Sequence[float], rate: float, *, now: float, seconds: float) -> float | None:
    """The first end after 0 from which on, for ``seconds``, jobs end at nearly this rate."""
    after = sorted(end for end in ends if end > 0)
    enough = ENOUGH * rate * seconds
    for begin in after:
        if begin + seconds > now:
            return None
        if sum(begin <= end < begin + seconds for end in after) >= enough:
            return begin
    return None


def check(ground: Bed, accepted: Collection[str]) -> None:
    """Wait until all jobs have ended; raises Problem when one that was accepted did not succeed."""
    deadline = time.monotonic() + GIVEN_UP_SECONDS
    while ask(ground, LEFT) and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
    lost = set(accepted) - {str(job_id) for (job_id,) in ask(ground, SUCCEEDED)}
    if lost:
        raise Problem(f"{len(lost)} of {len(accepted)} accepted jobs did not succeed.")


@contextmanager
def under_load(request: Load, connections: int) -> Iterator[list[str]]:
    """Clients that submit and wait, until the end of the block; the ids of accepted jobs."""
    stopping = threading.Event()
    accepted: list[str] = []

    def client() -> None:
        with closing(http.client.HTTPConnection(LOCALHOST, request.port)) as connection:
            while not stopping.is_set():
                next_at = time.monotonic() + PACE_SECONDS
                connection.request("POST", request.path, request.body, request.headers)
                answer = connection.getresponse()
                job = json.loads(answer.read())
                if answer.status == 202:
                    accepted.append(job["id"])
                    stopping.wait(next_at - time.monotonic())
                elif answer.status == 503:
                    stopping.wait(AGAIN_SECONDS)
                else:
                    raise Problem(f"{request.path} answered {answer.status}.")

    with ThreadPoolExecutor(connections) as threads:
        clients = [threads.submit(client) for _ in range(connections)]
        try:
            yield accepted
        finally:
            stopping.set()
        for each in clients:
            each.result()


def ask(ground: Bed, statement: str, *values: float) -> list[tuple[Any, ...]]:
    """Rows."""
    with closing(psycopg2.connect(ground.stack.database_url)) as connection:
        cursor = connection.cursor()
        cursor.execute(statement, values)
        return cursor.fetchall()
