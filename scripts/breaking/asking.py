"""One HTTP request of a customer, on a connection of its own."""

import http.client
import json
import time
from dataclasses import dataclass
from typing import Any

from scripts.breaking.answers import Answer, Answers
from scripts.breaking.downtime import Downtime
from scripts.stack.ports import LOCALHOST

PATIENCE_SECONDS = 30


@dataclass(frozen=True, slots=True)
class Api:
    """Where the API is, when it may be away, and where its answers are kept."""

    port: int
    away: Downtime
    answers: Answers

    def ask(
        self, method: str, path: str, headers: dict[str, str], *, body: bytes | None = None
    ) -> Answer:
        """Ask once; what a customer does not have to expect is complained about."""
        sent_at = time.monotonic()
        try:
            answer = self._exchange(method, path, headers, body)
        except (OSError, http.client.HTTPException) as error:
            answer = Answer(0, f"{type(error).__name__}: {error}")
        else:
            self.away.answered(sent_at)
        self.answers.count(answer)
        if not (self.away.explains(sent_at) if answer.broke else answer.sound):
            seconds = time.monotonic() - sent_at
            self.answers.complain(f"{method} {path} after {seconds:.1f} s", answer)
        return answer

    def _exchange(
        self, method: str, path: str, headers: dict[str, str], body: bytes | None
    ) -> Answer:
        # A connection kept open could break for good reasons; so none is.
        headers = {"Connection": "close", "Content-Type": "application/json", **headers}
        connection = http.client.HTTPConnection(LOCALHOST, self.port, timeout=PATIENCE_SECONDS)
        try:
            connection.request(method, f"/api/v1/{path}", body, headers)
            response = connection.getresponse()
            text = response.read().decode(errors="replace")
        finally:
            connection.close()
        return Answer(
            response.status,
            text,
            media_type=response.headers.get_content_type(),
            retry_after=response.headers.get("Retry-After", ""),
            replayed=response.headers.get("Idempotent-Replayed") == "true",
            document=_parse(text),
        )


def _parse(text: str) -> dict[str, Any]:
    try:
        document = json.loads(text)
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}
