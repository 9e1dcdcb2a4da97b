"""A receiver of webhooks, which prints what came and whether it is authentic."""

import json
import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock
from typing import Any

from app.cli.money import usd
from app.cli.printing import printable
from app.cli.problem import Problem
from app.webhooks import signing

_MOST_BYTES = 1 << 20  # a body is under 20 kB
_SILENCE_SECONDS = 15


class Listener(ThreadingHTTPServer):
    """On 127.0.0.1; knows the secret."""

    daemon_threads = True

    def __init__(self, port: int, secret: str, *, as_json: bool) -> None:
        """Raises Problem for a port that is taken and for what is no secret."""
        self._secret, self._as_json = secret, as_json
        self._printing = Lock()
        if not signing.is_secret(secret):
            raise Problem("The secret cannot be used: one is whsec_ and base64, 24 bytes at least.")
        try:
            super().__init__(("127.0.0.1", port), _Handler)
        except OSError as error:
            raise Problem(f"Port {port}: {error.strerror}; choose another with --port.") from None
        self.url = f"http://127.0.0.1:{self.server_port}/"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A sender that goes away in the middle is its own affair."""

    def receive(self, headers: Mapping[str, str], body: bytes) -> int:
        """Verify and print a delivery; the status to answer with."""
        reason = refusal(self._secret, headers, body)
        event = None if reason else _event(body)
        if reason is None and event is None:
            reason = "the body is no event"
        said = {"id": headers.get("webhook-id"), "verified": reason is None, "refused": reason}
        line = json.dumps({**said, "event": event}) if self._as_json else _line(said, event)
        with self._printing:
            sys.stdout.write(f"{printable(line)}\n")
            sys.stdout.flush()
        return 400 if reason else 204


def refusal(secret: str, headers: Mapping[str, str], body: bytes) -> str | None:
    """Why a delivery is not believed, if it is not; ``headers`` under lower-case names."""
    if signing.verify(secret, headers, body, now=time.time()):
        return None
    said = headers.get("webhook-timestamp", "")
    if not said or not headers.get("webhook-signature"):
        return "it is not signed"
    if said.isdecimal() and len(said) < 16 and signing.verify(secret, headers, body, now=int(said)):
        return "its timestamp is more than five minutes off"
    return "its signature is wrong"


class _Handler(BaseHTTPRequestHandler):
    server: Listener
    timeout = _SILENCE_SECONDS

    def do_POST(self) -> None:
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or int(length) > _MOST_BYTES:
            self._answer(413 if length.isdecimal() else 411)
            return
        body = self.rfile.read(int(length))
        headers = {name.lower(): value for name, value in self.headers.items()}
        self._answer(self.server.receive(headers, body))

    def log_message(self, format: str, *args: object) -> None:
        """What is to be said, the listener says."""

    def _answer(self, status: int) -> None:
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()


def _event(body: bytes) -> dict[str, Any] | None:
    try:
        event = json.loads(body)
    except ValueError:
        return None
    return event if isinstance(event, dict) else None


def _line(said: dict[str, Any], event: dict[str, Any] | None) -> str:
    now = datetime.now(UTC).strftime("%H:%M:%S")
    if event is None:
        return f"{now}  refused: {said['refused']} ({said['id'] or 'without an id'})"
    data = event.get("data")
    job = data if isinstance(data, dict) else {}
    charge = job.get("charge") or {}
    money = f"  {usd(charge['charged_micros'])}" if "charged_micros" in charge else ""
    return f"{now}  {event.get('type')}  {job.get('id', '')}  {job.get('status', '')}{money}"
