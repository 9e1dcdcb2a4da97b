"""Whether the API's memory stays flat while jobs are submitted as fast as it takes them.

The resident memory of all its processes together, shared pages counted in each, is read every few
seconds for ``--minutes``. The baseline is the median of the first tenth, after a warm-up; what is
compared with it is that of the last tenth.
"""

import argparse
import statistics
import threading
import time
from dataclasses import replace

from scripts.arguments import positive
from scripts.benching import bed, load
from scripts.benching.bed import Bed
from scripts.benching.figures import Figure, alone, lower_is_better
from scripts.benching.load import Outcome
from scripts.benching.notes import Notes
from scripts.benching.submit import WARM_UP_REQUESTS, describe, product

WARM_UP_SHARE = 0.05  # of the time
SAMPLES = 120
MEBIBYTE = 1 << 20


def add_options(command: argparse.ArgumentParser) -> None:
    """Those of this benchmark alone."""
    command.add_argument("--minutes", type=positive, default=10.0, help="of load (default: 10)")


def run(options: argparse.Namespace, notes: Notes) -> list[Figure]:
    """Submit all the time, and look on."""
    seconds = options.minutes * 60
    with bed.made() as ground:
        with notes.doing("starting the API"):
            ground.start(ground.stack.api())
        request = replace(product(ground), connections=options.connections)
        load.run(replace(request, requests=WARM_UP_REQUESTS), 202)
        outcomes: list[Outcome] = []

        def submit() -> None:
            outcomes.append(load.run(replace(request, seconds=seconds), 202))

        thread = threading.Thread(target=submit)
        thread.start()
        samples = watch(ground, seconds, notes)
        thread.join()
    if not outcomes:
        raise RuntimeError("the load ended with an error")
    notes.say(f"{outcomes[0].requests:,} jobs, {describe(outcomes[0])}")
    tenth = max(len(samples) // 10, 1)
    return [
        lower_is_better("api_rss", "MiB", values=samples[-tenth:], baselines=samples[:tenth]),
        alone("api_rss_most", "MiB", [max(samples)]),
        alone("submit_rate", "req/s", [outcomes[0].per_second]),
    ]


def watch(ground: Bed, seconds: float, notes: Notes) -> list[float]:
    """The memory now and then, in MiB."""
    time.sleep(WARM_UP_SHARE * seconds)
    until = time.monotonic() + (1 - 2 * WARM_UP_SHARE) * seconds
    pause = (1 - 2 * WARM_UP_SHARE) * seconds / SAMPLES
    samples = []
    while time.monotonic() < until:
        samples.append(ground.resident_bytes("api") / MEBIBYTE)
        time.sleep(pause)
    notes.say(
        f"{len(samples)} samples: first {samples[0]:.0f} MiB, "
        f"median {statistics.median(samples):.0f} MiB, last {samples[-1]:.0f} MiB"
    )
    return samples
