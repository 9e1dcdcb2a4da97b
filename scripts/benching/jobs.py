"""How long a job takes from POST to webhook, and how many per second get through.

The engine answers at once, so the generation takes no time and nothing is subtracted for it. The
baseline of the latency is a bare route, INSERT, Celery task and HTTP callback; that of the rate is
Celery alone, with tasks that do nothing.
"""

import argparse
import http.client
import json
import time
from dataclasses import dataclass, replace

import redis
from celery import Celery

from scripts.arguments import count
from scripts.benching import baseline, bed, load
from scripts.benching.baseline import Baseline
from scripts.benching.bed import Bed
from scripts.benching.figures import Figure, alone, higher_is_better, lower_is_better, percentile
from scripts.benching.load import Load
from scripts.benching.notes import Notes
from scripts.benching.receiver import PATIENCE_SECONDS, Receiver, listening
from scripts.benching.submit import product, skeleton
from scripts.stack.ports import LOCALHOST
from scripts.stack.problem import Problem

NOOPS = 3000


@dataclass(frozen=True, slots=True)
class Latencies:
    """Of one round of jobs, one after the other."""

    p50_ms: float
    p99_ms: float


def add_options(command: argparse.ArgumentParser) -> None:
    """Those of this benchmark alone."""
    command.add_argument("--jobs", type=count, default=500, help="submitted at once (default: 500)")


def run(options: argparse.Namespace, notes: Notes) -> list[Figure]:
    """Measure both sides in turn, in the same run."""
    with bed.made() as ground, listening() as receiver:
        bare = Baseline(ground.stack)
        with notes.doing("starting the API, the workers and the baseline's"):
            start(ground, bare)
        sides = {
            "GPTQueue": product(ground, webhook_url=receiver.url),
            "bare": skeleton(bare, webhook_url=receiver.url),
        }
        told = until_told(sides["GPTQueue"], options=options, notes=notes)
        ours, theirs = one_by_one(sides, receiver, options=options, notes=notes)
        rates, noops = at_once(sides["GPTQueue"], receiver, ground, options=options, notes=notes)
    return [
        lower_is_better(
            "job_p50",
            "ms",
            values=[each.p50_ms for each in ours],
            baselines=[each.p50_ms for each in theirs],
        ),
        lower_is_better(
            "job_p99",
            "ms",
            values=[each.p99_ms for each in ours],
            baselines=[each.p99_ms for each in theirs],
        ),
        alone("terminal_p50", "ms", [each.p50_ms for each in told]),
        alone("terminal_p99", "ms", [each.p99_ms for each in told]),
        higher_is_better("job_rate", "jobs/s", values=rates, baselines=noops),
    ]


def start(ground: Bed, bare: Baseline) -> None:
    """Everything that ``scripts/up`` runs but Flower, and the baseline."""
    stack = ground.stack
    worker = stack.worker(bed.MODEL, slots=baseline.THREADS)
    ground.start(stack.api(), worker, stack.delivery(), stack.beat())
    ground.start(bare.api(), bare.worker())


def one_by_one(
    sides: dict[str, Load], receiver: Receiver, *, options: argparse.Namespace, notes: Notes
) -> list[list[Latencies]]:
    """Alternating rounds on an idle stack."""
    for side in sides.values():
        sequence(side, receiver, 1.0)
    found: list[list[Latencies]] = [[] for _ in sides]
    for _ in range(options.rounds):
        for (name, side), rounds in zip(sides.items(), found, strict=True):
            times = sequence(side, receiver, options.seconds)
            rounds.append(Latencies(percentile(times, 50), percentile(times, 99)))
            notes.say(
                f"{name}, {len(times)} jobs one by one: "
                f"p50 {rounds[-1].p50_ms:.1f} ms, p99 {rounds[-1].p99_ms:.1f} ms"
            )
    return found


def until_told(side: Load, *, options: argparse.Namespace, notes: Notes) -> list[Latencies]:
    """From POST to the answer that shows the job's end, with ``Prefer: wait``."""
    waiting = replace(side, headers={**side.headers, "Prefer": "wait=60"})
    load.run(replace(waiting, seconds=1.0), 202)
    outcomes = [
        load.run(replace(waiting, seconds=options.seconds), 202) for _ in range(options.rounds)
    ]
    for outcome in outcomes:
        notes.say(
            f"GPTQueue, {outcome.requests} jobs waited for one by one: "
            f"p50 {outcome.p50_ms:.1f} ms, p99 {outcome.p99_ms:.1f} ms"
        )
    return [Latencies(outcome.p50_ms, outcome.p99_ms) for outcome in outcomes]


def sequence(side: Load, receiver: Receiver, seconds: float) -> list[float]:
    """The milliseconds from POST to webhook of one job after the other."""
    connection = http.client.HTTPConnection(LOCALHOST, side.port)
    headers = {"Content-Type": "application/json", **side.headers}
    times: list[float] = []
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        sent_at = time.monotonic()
        connection.request("POST", side.path, side.body, headers)
        job = json.loads(connection.getresponse().read())
        times.append((receiver.moment(job["id"]) - sent_at) * 1000)
    connection.close()
    return times


def at_once(
    side: Load,
    receiver: Receiver,
    ground: Bed,
    *,
    options: argparse.Namespace,
    notes: Notes,
) -> tuple[list[float], list[float]]:
    """Alternating rounds at full load: jobs per second, and bare no-ops per second."""
    rates, noops = [], []
    for _ in range(options.rounds):
        rates.append(flood(side, receiver, jobs=options.jobs, connections=options.connections))
        notes.say(f"GPTQueue, {options.jobs} jobs at once: {rates[-1]:,.0f} jobs/s")
        noops.append(flood_bare(ground.stack.redis_url))
        notes.say(f"bare Celery, {NOOPS} no-ops at once: {noops[-1]:,.0f} tasks/s")
    return rates, noops


def flood(side: Load, receiver: Receiver, *, jobs: int, connections: int) -> float:
    """Jobs per second, from the first POST to the last webhook."""
    receiver.forget()
    outcome = load.run(replace(side, requests=jobs, connections=connections), 202)
    return jobs / (receiver.last_moment(jobs) - outcome.started)


def flood_bare(redis_url: str) -> float:
    """No-op tasks per second, from the first publish to the end of the last."""
    celery = Celery(broker=redis_url)
    started = time.monotonic()
    for _ in range(NOOPS):
        celery.send_task("noop", args=[NOOPS], queue=baseline.QUEUE, ignore_result=True)
    with redis.Redis.from_url(redis_url) as broker:
        if broker.blpop([baseline.DONE], timeout=PATIENCE_SECONDS) is None:
            raise Problem("The bare tasks did not end.")
    return NOOPS / (time.monotonic() - started)
