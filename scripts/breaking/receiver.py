"""Where the webhooks of a run arrive: verifies, writes down, and misbehaves now and then."""

import json
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from app.webhooks import signing
from scripts.stack.ports import LOCALHOST

NO_CONTENT, UNAUTHORIZED, BROKEN = 204, 401, 500
HANG_SECONDS = 3.0  # longer than a sender waits
BROKEN_CHANCE, HANG_CHANCE = 0.04, 0.02


@dataclass(frozen=True, slots=True)
class Arrival:
    """One request: about which job, saying what, and what was answered (None: nothing)."""

    job_id: str
    job_status: str
    answered: int | None


class Receiver(ThreadingHTTPServer):
    """The endpoints of all customers: ``url`` and the customer's number."""

    request_queue_size = 512
    daemon_threads = True

    def __init__(self, seed: int) -> None:
        super().__init__((LOCALHOST, 0), Handler)
        self.url = f"http://{LOCALHOST}:{self.server_port}/"
        self.secrets: list[str] = []
        self.arrivals: dict[str, list[Arrival]] = {}  # by message id
        self.forged = 0
        self._seed = seed
        self._lock = threading.Lock()

    def take(self, path: str, headers: dict[str, str], body: bytes) -> int | None:
        """Write a request down; the status to answer with, or None to say nothing."""
        secret = self.secrets[int(path.strip("/"))]
        if not signing.verify(secret, headers, body, now=time.time()):
            with self._lock:
                self.forged += 1
            return UNAUTHORIZED
        message_id, job = headers["webhook-id"], json.loads(body)["data"]
        with self._lock:
            earlier = self.arrivals.setdefault(message_id, [])
            status = NO_CONTENT if earlier else self._mood(job["metadata"]["plan"])
            earlier.append(Arrival(job["id"], job["status"], status))
        return status

    def accepted(self, message_id: str) -> bool:
        """Whether this message was answered with a yes, at least once."""
        return any(each.answered == NO_CONTENT for each in self.arrivals.get(message_id, ()))

    def totals(self) -> Counter[int | None]:
        """How many requests were answered with what."""
        return Counter(each.answered for some in self.arrivals.values() for each in some)

    def _mood(self, plan: str) -> int | None:
        """What the first attempt meets; the others meet a yes."""
        drawn = random.Random(f"{self._seed}:webhook:{plan}").random()
        if drawn < BROKEN_CHANCE:
            return BROKEN
        return None if drawn < BROKEN_CHANCE + HANG_CHANCE else NO_CONTENT

    def handle_error(self, request: object, client_address: object) -> None:
        """A sender that was killed half-way is no news."""


class Handler(BaseHTTPRequestHandler):
    """One webhook."""

    server: Receiver

    def do_POST(self) -> None:
        """Take it, then answer, or hang."""
        body = self.rfile.read(int(self.headers["Content-Length"]))
        headers = {name.lower(): value for name, value in self.headers.items()}
        status = self.server.take(self.path, headers, body)
        if status is None:
            time.sleep(HANG_SECONDS)
            return
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


@contextmanager
def listening(seed: int) -> Iterator[Receiver]:
    """A receiver for the length of the block."""
    with Receiver(seed) as receiver:
        threading.Thread(target=receiver.serve_forever, args=(0.05,), daemon=True).start()
        yield receiver
        receiver.shutdown()
