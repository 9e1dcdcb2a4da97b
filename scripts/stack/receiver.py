"""A webhook receiver, as a customer would write one; it keeps what it gets for a look."""

import json
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from app.webhooks import signing
from scripts.stack.ports import LOCALHOST

KEPT = 100
MAX_BODY_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Delivery:
    """One event that arrived."""

    received_at: float
    message_id: str
    verified: bool
    event: Any

    @property
    def type(self) -> str:
        """The event's type, such as job.succeeded."""
        return str(self.event.get("type")) if isinstance(self.event, dict) else "no event"

    @property
    def job_id(self) -> str:
        """The job it is about."""
        data = self.event.get("data") if isinstance(self.event, dict) else None
        return str(data.get("id")) if isinstance(data, dict) else ""


class Receiver:
    """Listens on a port of this machine while ``scripts/up`` runs."""

    def __init__(self, port: int, secret: str, log: Callable[[str], object]) -> None:
        self._secret = secret
        self._log = log
        self._deliveries: deque[Delivery] = deque(maxlen=KEPT)
        self._server = ThreadingHTTPServer((LOCALHOST, port), _handler_of(self))
        self.url = f"http://{LOCALHOST}:{self._server.server_port}/"

    def start(self) -> None:
        """Serve in the background."""
        threading.Thread(target=self._server.serve_forever, name="receiver", daemon=True).start()

    def stop(self) -> None:
        """Close the port."""
        self._server.shutdown()
        self._server.server_close()

    def take(self, headers: dict[str, str], body: bytes) -> bool:
        """Keep an event; whether its signature is ours."""
        now = time.time()
        delivery = Delivery(
            received_at=now,
            message_id=headers.get("webhook-id", ""),
            verified=signing.verify(self._secret, headers, body, now=now),
            event=_parse(body),
        )
        self._deliveries.append(delivery)
        verdict = "signature verified" if delivery.verified else "WRONG SIGNATURE"
        self._log(f"{delivery.type} of job {delivery.job_id}: {verdict}")
        return delivery.verified

    def of_job(self, job_id: str) -> Delivery | None:
        """The first event about this job."""
        return next((each for each in tuple(self._deliveries) if each.job_id == job_id), None)

    def document(self) -> bytes:
        """Everything kept, the latest first, for a person to read."""
        newest_first = [asdict(each) for each in reversed(tuple(self._deliveries))]
        return json.dumps(newest_first, indent=2).encode()


def _parse(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        return None


def _handler_of(receiver: Receiver) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        """POST: an event; GET: those that came."""

        timeout = 15

        def do_POST(self) -> None:
            length = self.headers.get("Content-Length", "")
            if not length.isdecimal() or int(length) > MAX_BODY_BYTES:
                self.send_error(HTTPStatus.LENGTH_REQUIRED)
                return
            headers = {name.lower(): value for name, value in self.headers.items()}
            authentic = receiver.take(headers, self.rfile.read(int(length)))
            self._answer(HTTPStatus.NO_CONTENT if authentic else HTTPStatus.UNAUTHORIZED)

        def do_GET(self) -> None:
            self._answer(HTTPStatus.OK, receiver.document())

        def log_message(self, format: str, *args: object) -> None:
            """Nothing: ``take`` says more."""

        def _answer(self, status: HTTPStatus, body: bytes = b"") -> None:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    return Handler
