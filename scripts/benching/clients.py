"""What clients that read along cost: the engine's time per token, and the memory of the API.

``--streams`` (16) jobs of the demo model decode together, in turn with a reader of the events of
each and with none; the database says how long they took. Then ``--connections`` (1,000) streams
are opened at one API process, each of a job that waits, and its memory is read before, when they
are open, and some seconds later; they end when their jobs are cancelled.
"""

import argparse
import http.client
import json
import selectors
import socket
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psycopg2

from scripts.benching import bed
from scripts.benching.bed import Bed
from scripts.benching.engine import checkpoint
from scripts.benching.figures import Figure, alone, lower_is_better
from scripts.benching.memory import MEBIBYTE
from scripts.benching.notes import Notes
from scripts.quantization import demo
from scripts.stack.ports import LOCALHOST
from scripts.stack.problem import Problem
from scripts.stack.state import State
from scripts.stack.supervisor import Part

MODEL = "bench"
TOKENS = 96
SETTLE_SECONDS = 10.0
PATIENCE_SECONDS = 120.0
TOOK = """
SELECT extract(epoch FROM max(finished_at) - min(started_at)), sum(completion_tokens), count(*)
FROM jobs WHERE id = ANY(%s::uuid[]) AND status = 'succeeded'
"""


def add_options(command: argparse.ArgumentParser) -> None:
    """Those of this benchmark alone."""
    command.add_argument("--streams", type=int, default=16, help="read at a time (default: 16)")
    command.add_argument("--tokens", type=int, default=TOKENS, help="of each job (default: 96)")
    command.add_argument(
        "--checkpoint", type=Path, help="the model's folder (default: the demo model's)"
    )
    command.set_defaults(connections=1000)


def run(options: argparse.Namespace, notes: Notes) -> list[Figure]:
    """Decode with readers and without; then hold many streams open."""
    with tempfile.TemporaryDirectory(prefix="gptqueue-bench-") as name:
        scratch = Path(name)
        scratch.chmod(0o711)  # for the users of the parts
        model = options.checkpoint or State.here().models / demo.NAME
        folder = checkpoint.endless(model, scratch / "checkpoint")
        with_readers, without = decoding(folder, options, notes)
    before, opened, later = held_open(options.connections, notes)
    return [
        lower_is_better("stream_token", "ms", values=with_readers, baselines=without),
        lower_is_better("open_streams_rss", "MiB", values=[later], baselines=[opened]),
        alone("stream_memory", "KiB", [(opened - before) * 1024 / options.connections]),
    ]


def decoding(
    folder: Path, options: argparse.Namespace, notes: Notes
) -> tuple[list[float], list[float]]:
    """Milliseconds per token of each job, with readers and without."""
    catalog = bed.CATALOG.format(model=MODEL, source=folder, engine="native")
    with_readers, without = [], []
    with bed.made(catalog) as ground:
        with notes.doing("starting the API and a worker"):
            ground.start(ground.stack.api(), ground.stack.worker(MODEL, slots=options.streams))
        api = Api(ground, options.tokens)
        api.decode(options.streams, read=True)
        for _ in range(options.rounds):
            without.append(api.decode(options.streams, read=False))
            with_readers.append(api.decode(options.streams, read=True))
            notes.say(
                f"{options.streams} jobs: {without[-1]:.2f} ms a token, read along "
                f"{with_readers[-1]:.2f} ms"
            )
    return with_readers, without


@dataclass(frozen=True)
class Api:
    """The API of a stack that runs, as its customer sees it."""

    ground: Bed
    tokens: int = TOKENS

    def decode(self, jobs: int, *, read: bool) -> float:
        """Milliseconds per token of so many jobs that decode together."""
        ids = [self.submit(f"{number} is a number. It") for number in range(jobs)]
        if read:
            heard = [threading.Thread(target=self._read, args=(each,)) for each in ids]
            for thread in heard:
                thread.start()
            for thread in heard:
                thread.join()
        seconds, tokens = self._took(ids)
        return seconds * 1000 / (tokens / jobs)

    def submit(self, prompt: str) -> str:
        """A job; its id."""
        body = {"model": MODEL, "prompt": prompt, "max_tokens": self.tokens, "temperature": 0}
        return str(self._ask("POST", "/api/v1/complete", body)["id"])

    def cancel(self, job_id: str) -> None:
        """End a job that waits."""
        self._ask("POST", f"/api/v1/jobs/{job_id}/cancel")

    def stream(self, job_id: str) -> socket.socket:
        """A connection on which the events of a job come."""
        connection = socket.create_connection((LOCALHOST, self.ground.stack.choices.port))
        request = (
            f"GET /api/v1/jobs/{job_id}/events HTTP/1.1\r\nHost: {LOCALHOST}\r\n"
            f"Authorization: Bearer {self.ground.key}\r\n\r\n"
        )
        connection.sendall(request.encode())
        return connection

    def _read(self, job_id: str) -> None:
        with self.stream(job_id) as connection:
            text = b""
            while b"event: end" not in text:
                fresh = connection.recv(65_536)
                if not fresh:
                    raise Problem(f"The stream of {job_id} broke off.")
                text = text[-100:] + fresh

    def _ask(self, method: str, path: str, body: Any = None) -> Any:
        connection = http.client.HTTPConnection(LOCALHOST, self.ground.stack.choices.port)
        headers = {
            "Authorization": f"Bearer {self.ground.key}",
            "Content-Type": "application/json",
        }
        connection.request(method, path, json.dumps(body) if body else None, headers)
        answer = connection.getresponse()
        said = json.loads(answer.read())
        connection.close()
        if answer.status >= http.client.BAD_REQUEST:
            raise Problem(f"{method} {path} was refused ({answer.status}): {said}")
        return said

    def _took(self, ids: list[str]) -> tuple[float, int]:
        """Seconds and tokens, when all have succeeded."""
        give_up = time.monotonic() + PATIENCE_SECONDS
        with psycopg2.connect(self.ground.stack.database_url) as connection:
            connection.autocommit = True
            while time.monotonic() < give_up:
                with connection.cursor() as cursor:
                    cursor.execute(TOOK, (ids,))
                    seconds, tokens, done = cursor.fetchone()
                if done == len(ids):
                    return float(seconds), int(tokens)
                time.sleep(0.5)
        raise Problem("The jobs did not end.")


def held_open(count: int, notes: Notes) -> tuple[float, float, float]:
    """The memory of an API process in MiB: before, with so many open streams, and a while later."""
    with bed.made(bed.CATALOG.format(model=MODEL, source="fake:", engine="fake")) as ground:
        ground.start(_one_process(ground.stack.api()))
        api = Api(ground)
        ids = [api.submit(f"job {number}") for number in range(count)]

        def rss() -> float:
            return ground.resident_bytes("api") / MEBIBYTE

        before = rss()
        with streams(api, ids) as open_ones:
            open_ones.await_all(b"event: status")
            opened = rss()
            time.sleep(SETTLE_SECONDS)
            later = statistics.median([rss(), rss(), rss()])
            for job_id in ids:
                api.cancel(job_id)
            open_ones.await_all(b"event: end")
        notes.say(
            f"{count:,} open streams at one process (gevent): {before:.0f} MiB before, "
            f"{opened:.0f} open, {later:.0f} after {SETTLE_SECONDS:g} s; all heard of the end"
        )
    return before, opened, later


def _one_process(part: Part) -> Part:
    made = part.command()
    alone_there = {**made.environment, "GUNICORN_CMD_ARGS": "--workers 1"}
    return replace(part, command=lambda: replace(made, environment=alone_there))


class Streams:
    """Connections, and what came on each of late."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._texts: dict[int, bytes] = {}

    def add(self, connection: socket.socket) -> None:
        """One more."""
        self._selector.register(connection, selectors.EVENT_READ)
        self._texts[connection.fileno()] = b""

    def await_all(self, words: bytes) -> None:
        """Read until this has come on each."""
        missing = {number for number, text in self._texts.items() if words not in text}
        give_up = time.monotonic() + PATIENCE_SECONDS
        while missing:
            if time.monotonic() > give_up:
                raise Problem(f"{len(missing)} streams were not told {words.decode()!r}.")
            for key, _ in self._selector.select(timeout=1):
                assert isinstance(key.fileobj, socket.socket)
                fresh = key.fileobj.recv(65_536)
                text = self._texts[key.fd] + fresh
                self._texts[key.fd] = text[-200:]
                if words in text:
                    missing.discard(key.fd)
                if not fresh:
                    self._selector.unregister(key.fileobj)
        self._texts = dict.fromkeys(self._texts, b"")


@contextmanager
def streams(api: Api, ids: list[str]) -> Iterator[Streams]:
    """The streams of these jobs, for the length of the block."""
    with ExitStack() as closing:
        opened = Streams()
        for job_id in ids:
            opened.add(closing.enter_context(api.stream(job_id)))
        yield opened
