"""The load generator: a process of its own that keeps N connections busy with one request.

Raw asyncio, because it shares the machine with what it measures: any ready-made HTTP client
takes more processor time than the server that it asks. ``run`` starts it and waits.
"""

import asyncio
import json
import subprocess
import sys
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any

from scripts.benching.figures import percentile
from scripts.stack.ports import LOCALHOST
from scripts.stack.problem import Problem


@dataclass(frozen=True, kw_only=True)
class Load:
    """What to send: ``requests`` in all, or as many as fit into ``seconds``."""

    port: int
    path: str
    connections: int = 1
    seconds: float = 3600
    requests: int = sys.maxsize
    body: str = ""
    headers: dict[str, str] = field(default_factory=dict)

    def message(self) -> bytes:
        """The request as it goes over the wire."""
        headers = {
            "Host": f"{LOCALHOST}:{self.port}",
            "Content-Type": "application/json",
            "Content-Length": str(len(self.body)),
            **self.headers,
        }
        lines = [f"{'POST' if self.body else 'GET'} {self.path} HTTP/1.1"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        return "\r\n".join([*lines, "", self.body]).encode()


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came back; ``started`` and ``ended`` are of the monotonic clock."""

    started: float
    ended: float
    requests: int
    p50_ms: float
    p99_ms: float
    statuses: dict[str, int]

    @property
    def per_second(self) -> float:
        """Requests per second."""
        return self.requests / (self.ended - self.started)


def run(load: Load, expected: int) -> Outcome:
    """Send it, from another process; raises Problem unless every answer has this status."""
    finished = subprocess.run(
        [sys.executable, "-m", "scripts.benching.load"],
        input=json.dumps(asdict(load)),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        start_new_session=True,  # Ctrl-C is ours; run() then kills the child
    )
    outcome = Outcome(**json.loads(finished.stdout))
    if set(outcome.statuses) != {str(expected)}:
        raise Problem(f"{load.path} answered {outcome.statuses}, not only {expected}.")
    return outcome


class Generator:
    """All connections of one load."""

    def __init__(self, load: Load) -> None:
        self.load = load
        self.message = load.message()
        self.left = load.requests
        self.latencies: list[float] = []
        self.statuses: Counter[str] = Counter()
        self.started = time.monotonic()
        self.open = 0
        self.closed = asyncio.Event()

    async def run(self) -> Outcome:
        """Open the connections and wait until the last one has had its last answer."""
        loop = asyncio.get_running_loop()
        connections = min(self.load.connections, self.load.requests)
        for _ in range(connections):
            self.open += 1
            await loop.create_connection(lambda: Connection(self), LOCALHOST, self.load.port)
        await self.closed.wait()
        return Outcome(
            started=self.started,
            ended=time.monotonic(),
            requests=len(self.latencies),
            p50_ms=percentile(self.latencies, 50) * 1000,
            p99_ms=percentile(self.latencies, 99) * 1000,
            statuses=dict(self.statuses),
        )

    def may_send(self) -> bool:
        """Whether another request is wanted; counts it."""
        self.left -= 1
        return self.left >= 0 and time.monotonic() < self.started + self.load.seconds

    def close_one(self) -> None:
        """A connection is done."""
        self.open -= 1
        if not self.open:
            self.closed.set()


class Connection(asyncio.Protocol):
    """Sends a request as soon as the one before is answered."""

    def __init__(self, generator: Generator) -> None:
        self._generator = generator
        self._received = b""
        self._sent_at = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._send()

    def data_received(self, data: bytes) -> None:
        """Collect an answer: every one of them carries a Content-Length."""
        self._received += data
        head, end, body = self._received.partition(b"\r\n\r\n")
        if not end:
            return
        _, _, rest = head.lower().partition(b"\r\ncontent-length: ")
        if len(body) < int(rest.partition(b"\r\n")[0]):
            return
        self._generator.latencies.append(time.monotonic() - self._sent_at)
        self._generator.statuses[head[9:12].decode()] += 1
        self._received = b""
        self._send()

    def connection_lost(self, error: Exception | None) -> None:
        """By us when nothing is left to send; else the server broke it."""
        if self._sent_at:
            self._generator.statuses["broken"] += 1
        self._generator.close_one()

    def _send(self) -> None:
        if self._generator.may_send():
            self._sent_at = time.monotonic()
            self._transport.write(self._generator.message)
        else:
            self._sent_at = 0.0
            self._transport.close()


def main() -> None:
    """Read a load from standard input, write its outcome to standard output."""
    load: dict[str, Any] = json.load(sys.stdin)
    outcome = asyncio.run(Generator(Load(**load)).run())
    print(json.dumps(asdict(outcome)))


if __name__ == "__main__":
    main()
