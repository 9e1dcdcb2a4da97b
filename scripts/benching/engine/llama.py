"""Contestant: llama.cpp's ``llama-server``, over HTTP on this machine."""

import http.client
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from scripts.benching.engine.work import PATIENCE_SECONDS, Answer, Failed, Flight, Work
from scripts.stack import ports
from scripts.stack.client import answers
from scripts.stack.ports import LOCALHOST

SLOTS = 16
SLOT_TOKENS = 2048
START_SECONDS = 60
STOP_SECONDS = 10


class Llama:
    """A server with a GGUF of the same model; it ends with this process at the latest."""

    def __init__(self, *, binary: Path, gguf: Path) -> None:
        """Start ``binary``; raises Failed when it does not come up."""
        self._port = ports.find_free()
        threads = len(os.sched_getaffinity(0))
        command = [
            *(binary, "--model", gguf, "--host", LOCALHOST, "--port", self._port),
            *("--parallel", SLOTS, "--ctx-size", SLOTS * SLOT_TOKENS, "-t", threads),
        ]
        try:
            self._start(command)
        except Failed:
            # Some machines name AMX among their features and do not let it be used: llama.cpp
            # then crashes at the start, unless it leaves the weights as they are.
            self._start([*command, "--no-repack"])

    def ask(self, work: Work) -> list[Answer]:
        """As many connections as requests are in flight."""
        flight = Flight(work)
        with ThreadPoolExecutor(max_workers=work.in_flight) as connections:
            for number, prompt in flight.departures():
                connections.submit(self._ask_one, flight, number, prompt, work.tokens)
            return flight.land()

    def close(self) -> None:
        """Stop the server."""
        self._process.terminate()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _start(self, command: Sequence[str | int | Path]) -> None:
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115 (it lives as long as the server)
        try:
            self._process = subprocess.Popen(
                list(map(str, command)),
                stdout=self._log,
                stderr=subprocess.STDOUT,
            )
        except OSError as error:
            raise Failed(f"{command[0]} cannot be started: {error.strerror}.") from error
        deadline = time.monotonic() + START_SECONDS
        while not answers(f"http://{LOCALHOST}:{self._port}/health"):
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.close()
                raise Failed(f"llama-server did not start: {self._last_words()}")
            time.sleep(0.1)

    def _last_words(self) -> str:
        self._log.seek(0)
        return (self._log.read().strip().splitlines() or ["it said nothing"])[-1]

    def _ask_one(self, flight: Flight, number: int, prompt: str, tokens: int) -> None:
        try:
            flight.ended(number, self._continue(prompt, tokens))
        except (OSError, http.client.HTTPException, KeyError, ValueError) as error:
            flight.failed(Failed(f"llama-server did not answer: {error!r}"))

    def _continue(self, prompt: str, tokens: int) -> int:
        connection = http.client.HTTPConnection(LOCALHOST, self._port, timeout=PATIENCE_SECONDS)
        body = {
            "prompt": prompt,
            "n_predict": tokens,
            "temperature": 0,
            "ignore_eos": True,
            "stream": False,
            "cache_prompt": False,
        }
        connection.request(
            "POST", "/completion", json.dumps(body), {"Content-Type": "application/json"}
        )
        answer = json.loads(connection.getresponse().read())
        connection.close()
        return int(answer["tokens_predicted"])
