"""A batch of OpenAI's API beside the same number of submits, each from the first byte to the end.

The engine answers at once. A batch is uploaded, done, and its output downloaded; its baseline are
single submits by many connections, until the last job has ended. Memory is that of the API and of
the worker that looks after batches: the most while batches run, beside what it was before.
"""

import argparse
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import requests

from scripts.arguments import count
from scripts.benching import baseline, bed, load
from scripts.benching.bed import Bed
from scripts.benching.figures import Figure, higher_is_better, lower_is_better
from scripts.benching.memory import MEBIBYTE
from scripts.benching.notes import Notes
from scripts.benching.submit import BODY, product
from scripts.stack.ports import LOCALHOST
from scripts.stack.problem import Problem

PARTS = ("api", "delivery")
LOOK_SECONDS = 0.1
PATIENCE_SECONDS = 600
WARM_UP_LINES = 500


def add_options(command: argparse.ArgumentParser) -> None:
    """Those of this benchmark alone."""
    command.add_argument(
        "--lines", type=count, default=10_000, help="of the batch, and submits (default: 10000)"
    )


def run(options: argparse.Namespace, notes: Notes) -> list[Figure]:
    """Measure both sides in turn, in the same run."""
    singles, batches, most = [], [], dict.fromkeys(PARTS, 0.0)
    with bed.made() as ground:
        stack = ground.stack
        with notes.doing("starting the API and the workers"):
            worker = stack.worker(bed.MODEL, slots=baseline.THREADS)
            ground.start(stack.api(), worker, stack.delivery(), stack.beat())
        client = Client(ground)
        client.batch(WARM_UP_LINES)
        before = {name: ground.resident_bytes(name) / MEBIBYTE for name in PARTS}
        for _ in range(options.rounds):
            singles.append(client.singles(options.lines, options.connections))
            notes.say(f"{options.lines} submits: {singles[-1]:,.0f} jobs/s")
            with watched(ground, most):
                batches.append(client.batch(options.lines))
            notes.say(f"a batch of {options.lines}: {batches[-1]:,.0f} jobs/s")
    return [
        higher_is_better("batch_rate", "jobs/s", values=batches, baselines=singles),
        *(
            lower_is_better(f"batch_{name}_rss", "MiB", values=[most[name]], baselines=[was])
            for name, was in before.items()
        ),
    ]


class Client:
    """A customer with one key."""

    def __init__(self, ground: Bed) -> None:
        self._ground = ground
        self._address = f"http://{LOCALHOST}:{ground.stack.choices.port}"
        self._session = requests.Session()
        self._session.headers["Authorization"] = f"Bearer {ground.key}"

    def singles(self, jobs: int, connections: int) -> float:
        """Jobs per second, from the first submit to the end of the last job."""
        request = replace(product(self._ground), requests=jobs, connections=connections)
        outcome = load.run(request, 202)
        while self._any("queued") or self._any("running"):
            time.sleep(LOOK_SECONDS)
        return jobs / (time.monotonic() - outcome.started)

    def batch(self, lines: int) -> float:
        """Jobs per second, from the upload to the last byte of the output."""
        body = {**BODY, "model": bed.MODEL}
        url = "/v1/completions"
        sent = "".join(
            json.dumps({"custom_id": f"r{n}", "method": "POST", "url": url, "body": body}) + "\n"
            for n in range(lines)
        )
        started = time.monotonic()
        file = self._post("/v1/files", data={"purpose": "batch"}, files={"file": sent})
        asked = {"input_file_id": file["id"], "endpoint": url, "completion_window": "24h"}
        batch = self._post("/v1/batches", json=asked)
        while not batch["output_file_id"]:
            if batch["failed_at"] or time.monotonic() > started + PATIENCE_SECONDS:
                raise Problem(f"The batch did not end well: {batch}")
            time.sleep(LOOK_SECONDS)
            batch = self._get(f"/v1/batches/{batch['id']}").json()
        output = self._get(f"/v1/files/{batch['output_file_id']}/content").content
        if output.count(b"\n") != lines:
            raise Problem(f"The output has {output.count(chr(10).encode())} lines.")
        return lines / (time.monotonic() - started)

    def _any(self, status: str) -> bool:
        return bool(self._get(f"/api/v1/jobs?limit=1&status={status}").json()["data"])

    def _get(self, path: str) -> requests.Response:
        answer = self._session.get(self._address + path, timeout=60)
        answer.raise_for_status()
        return answer

    def _post(self, path: str, **how: object) -> dict[str, str]:
        answer = self._session.post(self._address + path, timeout=60, **how)  # type: ignore[arg-type]
        answer.raise_for_status()
        found: dict[str, str] = answer.json()
        return found


@contextmanager
def watched(ground: Bed, most: dict[str, float]) -> Iterator[None]:
    """Note the most memory of each part meanwhile."""
    over = threading.Event()

    def watch() -> None:
        while not over.wait(LOOK_SECONDS):
            for name in PARTS:
                most[name] = max(most[name], ground.resident_bytes(name) / MEBIBYTE)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
