"""The command ``gptqueue`` as people run it, and a bad line between it and the API."""

import http.client
import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import IO
from urllib.parse import urlsplit

from tests.conftest import ROOT


@dataclass
class Commands:
    """Runs the command with this environment and no other."""

    environment: dict[str, str]
    started: list[subprocess.Popen[str]] = field(default_factory=list)

    def start(
        self, *arguments: str, output: IO[str] | int = subprocess.PIPE
    ) -> subprocess.Popen[str]:
        """Run it in the background."""
        kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        process = subprocess.Popen(
            [sys.executable, "-W", "error", "-m", "app.cli", *arguments],
            env={**kept, "PYTHONPATH": str(ROOT), **self.environment},
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.started.append(process)
        return process

    def stop(self) -> None:
        """End what a test that failed has left behind."""
        for process in self.started:
            if process.returncode is None:
                process.kill()
                process.communicate()

    def run(self, *arguments: str, said: str = "") -> tuple[int, str, str]:
        """Its exit code, its output, and its errors; it reads what is ``said``."""
        return ended(self.start(*arguments), said)


def ended(process: subprocess.Popen[str], said: str | None = None) -> tuple[int, str, str]:
    """Its exit code, what is left of its output, and its errors."""
    output, errors = process.communicate(said, timeout=60)
    assert "Traceback" not in errors, errors
    return process.returncode, output, errors


def first(process: subprocess.Popen[str]) -> str:
    """The first of its output, as soon as there is any."""
    assert process.stdout is not None
    assert select.select([process.stdout], [], [], 20)[0], "it says nothing"
    return os.read(process.stdout.fileno(), 1 << 16).decode()  # nothing stays in a buffer


@dataclass
class Line:
    """What goes wrong between a client and the API. Counts down: each fault happens so often."""

    url: str
    lose_answers: int = 0  # of POSTs, after the API has done what they ask
    cut_streams: int = 0  # after this many bytes
    cut_after: int = 400
    delay_answers: float = 0.0  # of POSTs
    asked: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)

    def count(self, method: str, ending: str) -> int:
        """How many requests there were."""
        return sum(verb == method and path.endswith(ending) for verb, path, _ in self.asked)


class _Relay(BaseHTTPRequestHandler):
    line: Line

    def do_GET(self) -> None:
        self._relay(b"")

    def do_POST(self) -> None:
        self._relay(self.rfile.read(int(self.headers["Content-Length"] or 0)))

    def log_message(self, *_: object) -> None:
        """Nothing."""

    def _relay(self, body: bytes) -> None:
        line = self.line
        line.asked.append((self.command, self.path, dict(self.headers)))
        kept = {name: value for name, value in self.headers.items() if name != "Host"}
        link = http.client.HTTPConnection(urlsplit(line.url).netloc, timeout=60)
        link.request(self.command, self.path, body or None, kept)
        answer = link.getresponse()
        self.close_connection = True
        if self.command == "POST":
            time.sleep(line.delay_answers)
            if line.lose_answers:
                line.lose_answers -= 1
                answer.read()
                return
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in {"transfer-encoding", "connection"}:
                self.send_header(name, value)
        self.end_headers()
        self._pass_on(answer)
        link.close()

    def _pass_on(self, answer: http.client.HTTPResponse) -> None:
        line, passed = self.line, 0
        cut = line.cut_streams > 0 and self.path.endswith("/events")
        line.cut_streams -= cut
        while piece := answer.read1(64):
            try:
                self.wfile.write(piece)
            except OSError:
                return
            passed += len(piece)
            if cut and passed > line.cut_after:
                return


@contextmanager
def bad_line(url: str) -> Iterator[tuple[Line, str]]:
    """A relay to the API, and its address."""
    line = Line(url)
    handler = type("Relay", (_Relay,), {"line": line})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield line, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def await_true(check: object, seconds: float = 20) -> None:
    """Wait until the call returns something that is true."""
    assert callable(check)
    until = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < until, "it did not come true"
        time.sleep(0.02)
