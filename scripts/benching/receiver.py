"""Where webhooks arrive: notes when, and nothing else."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from scripts.stack.ports import LOCALHOST
from scripts.stack.problem import Problem

PATIENCE_SECONDS = 120


class Receiver(ThreadingHTTPServer):
    """Job id -> the moment (of the monotonic clock) at which its webhook came."""

    request_queue_size = 512

    def __init__(self) -> None:
        super().__init__((LOCALHOST, 0), Handler)
        self.url = f"http://{LOCALHOST}:{self.server_port}/"
        self._arrived: dict[str, float] = {}
        self._changed = threading.Condition()

    def arrive(self, job_id: str) -> None:
        """Note a webhook; a repeated one does not count."""
        now = time.monotonic()
        with self._changed:
            self._arrived.setdefault(job_id, now)
            self._changed.notify()

    def moment(self, job_id: str) -> float:
        """When this job's webhook came; waits for it, or raises Problem."""
        with self._changed:
            if not self._changed.wait_for(lambda: job_id in self._arrived, PATIENCE_SECONDS):
                raise Problem(f"The webhook of job {job_id} did not come.")
            return self._arrived[job_id]

    def last_moment(self, count: int) -> float:
        """When the last of ``count`` webhooks since ``forget`` came; else raises Problem."""
        with self._changed:
            if not self._changed.wait_for(lambda: len(self._arrived) >= count, PATIENCE_SECONDS):
                raise Problem(f"Of {count} webhooks only {len(self._arrived)} came.")
            return max(self._arrived.values())

    def forget(self) -> None:
        """Begin to count anew."""
        with self._changed:
            self._arrived.clear()


class Handler(BaseHTTPRequestHandler):
    """One webhook, of either side."""

    server: Receiver

    def do_POST(self) -> None:
        """Note it, then answer."""
        event = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.arrive(event.get("data", event)["id"])
        self.send_response(204)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


@contextmanager
def listening() -> Iterator[Receiver]:
    """A receiver for the length of the block."""
    with Receiver() as receiver:
        threading.Thread(target=receiver.serve_forever, args=(0.05,), daemon=True).start()
        yield receiver
        receiver.shutdown()
