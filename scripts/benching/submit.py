"""How quickly jobs are accepted: POST /api/v1/generate beside a bare skeleton.

The skeleton is a Flask route with one INSERT and one Celery publish: no keys, no checks, no
money. Both run under the same gunicorn settings; the load generator shares the cores with them.
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import replace

from scripts.benching import bed, load
from scripts.benching.baseline import Baseline
from scripts.benching.bed import Bed
from scripts.benching.figures import Figure, alone, higher_is_better, lower_is_better
from scripts.benching.load import Load, Outcome
from scripts.benching.notes import Notes

BODY = {"model": bed.MODEL, "prompt": "Why is a queue better than a lock?", "max_tokens": 64}
WARM_UP_REQUESTS = 200


def run(options: argparse.Namespace, notes: Notes) -> list[Figure]:
    """Measure both sides in turn, in the same run."""
    with bed.made() as ground:
        baseline = Baseline(ground.stack)
        with notes.doing("starting both APIs"):
            ground.start(ground.stack.api(), baseline.api())
        sides = {"GPTQueue": product(ground), "skeleton": skeleton(baseline)}
        for side in sides.values():
            load.run(replace(side, requests=WARM_UP_REQUESTS), 202)
        empty = replace(sides["skeleton"], path="/empty", body="", connections=options.connections)
        free = load.run(replace(empty, seconds=options.seconds), 200)
        notes.say(f"empty route, {clients(options.connections)}: {describe(free)}")
        many = measure(sides, options.connections, options=options, notes=notes)
        one = measure(sides, 1, options=options, notes=notes)
    return [
        Compared(many).rate("submit_rate"),
        Compared(many).latency("submit_p50", lambda outcome: outcome.p50_ms),
        Compared(many).latency("submit_p99", lambda outcome: outcome.p99_ms),
        Compared(one).latency("submit_p50_1_connection", lambda outcome: outcome.p50_ms),
        alone("empty_route_rate", "req/s", [free.per_second]),
    ]


def measure(
    sides: dict[str, Load], connections: int, *, options: argparse.Namespace, notes: Notes
) -> dict[str, list[Outcome]]:
    """Alternating rounds: what changes in the meantime changes for both."""
    outcomes: dict[str, list[Outcome]] = {name: [] for name in sides}
    for _ in range(options.rounds):
        for name, side in sides.items():
            outcome = load.run(replace(side, connections=connections, seconds=options.seconds), 202)
            outcomes[name].append(outcome)
            notes.say(f"{name}, {clients(connections)}: {describe(outcome)}")
    return outcomes


def product(ground: Bed, **more: str) -> Load:
    """A request to GPTQueue."""
    return Load(
        port=ground.stack.choices.port,
        path="/api/v1/generate",
        body=json.dumps(BODY | more),
        headers={"Authorization": f"Bearer {ground.key}"},
    )


def skeleton(baseline: Baseline, **more: str) -> Load:
    """The same to the skeleton."""
    return Load(port=baseline.port, path="/jobs", body=json.dumps(BODY | more))


def clients(connections: int) -> str:
    """How many, in words."""
    return "1 connection" if connections == 1 else f"{connections} connections"


def describe(outcome: Outcome) -> str:
    """One round."""
    return (
        f"{outcome.per_second:,.0f} req/s, p50 {outcome.p50_ms:.1f} ms, p99 {outcome.p99_ms:.1f} ms"
    )


class Compared:
    """The rounds of both sides, for figures."""

    def __init__(self, outcomes: dict[str, list[Outcome]]) -> None:
        self._ours, self._theirs = outcomes.values()

    def rate(self, name: str) -> Figure:
        """Requests per second."""
        return higher_is_better(
            name,
            "req/s",
            values=[each.per_second for each in self._ours],
            baselines=[each.per_second for each in self._theirs],
        )

    def latency(self, name: str, of: Callable[[Outcome], float]) -> Figure:
        """Milliseconds."""
        return lower_is_better(
            name, "ms", values=map(of, self._ours), baselines=map(of, self._theirs)
        )
