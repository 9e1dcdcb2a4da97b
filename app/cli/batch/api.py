"""The API, asked until it answers: a restart in the middle of a batch costs time and nothing else.

urllib3 and not requests: it takes neither proxies nor credentials from the environment.
"""

import json
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import urllib3
from urllib3.exceptions import (
    HTTPError,
    NameResolutionError,
    NewConnectionError,
    ProtocolError,
    TimeoutError,
)

from app.cli.batch.errors import CannotGoOn, LineGivenUp
from app.cli.problem import Problem

WAIT_SECONDS = 30  # that the API may keep a request until its job has ended
ANSWER_SECONDS = 30  # beyond that
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0
TRIES = 6
UNREACHABLE = 0
BUSY = {429, 502, 503, 504}
REDIRECTS = range(300, 400)


@dataclass(frozen=True, slots=True)
class Answer:
    """What the API said; ``UNREACHABLE`` and why, when it said nothing."""

    status: int
    document: dict[str, Any]
    retry_after: float | None = None

    @property
    def reason(self) -> str:
        """The problem in words."""
        return str(self.document.get("detail") or f"HTTP {self.status}")

    @property
    def is_final(self) -> bool:
        """Whether asking again would change nothing."""
        return self.status != UNREACHABLE and self.status not in BUSY and self.status < 500


class Api:
    """One API and one key, for many threads."""

    def __init__(
        self, url: str, key: str, *, threads: int, patience: float, tell: Callable[[str], None]
    ) -> None:
        """``patience`` is for how many seconds one request is tried while the API is away;
        ``tell`` gets a sentence before each pause.
        """
        self._url = f"{url.rstrip('/')}/api/v1"
        self._patience = patience
        self._tell = tell
        self._pool = urllib3.PoolManager(
            num_pools=1,
            maxsize=threads,
            block=True,
            retries=False,
            timeout=urllib3.Timeout(connect=10, read=WAIT_SECONDS + ANSWER_SECONDS),
            headers={"Authorization": f"Bearer {key}", "User-Agent": "GPTQueue-Batch/1"},
        )

    def check(self) -> None:
        """Raise Problem when there is no API at this address, or the key is not valid."""
        answer = self._try("GET", "/models")
        if answer.status == UNREACHABLE:
            raise Problem(f"{self._url}: {answer.reason} Is the API running?")
        if answer.is_final and "data" not in answer.document:
            raise Problem(f"{self._url}: {answer.reason}")

    def submit(self, endpoint: str, body: bytes, idempotency_key: str) -> Answer:
        """Submit a job; it has often ended by the time this returns."""
        headers = {"Content-Type": "application/json", "Idempotency-Key": idempotency_key}
        return self._ask("POST", f"/{endpoint}", headers=headers, body=body)

    def job(self, job_id: str) -> Answer:
        """The job, when it has ended or after ``WAIT_SECONDS``."""
        return self._ask("GET", f"/jobs/{job_id}")

    def _ask(
        self,
        method: str,
        path: str,
        *,
        headers: dict[str, str] | None = None,
        body: bytes | None = None,
    ) -> Answer:
        """Try until there is a final answer.

        Raises LineGivenUp when the API is there but fails on this request again and again, and
        CannotGoOn when it is away for longer than ``patience``.
        """
        give_up = time.monotonic() + self._patience
        pause, failures = FIRST_PAUSE, 0
        while True:
            answer = self._try(method, path, headers=headers, body=body)
            if answer.is_final:
                return answer
            failures += answer.status not in BUSY and self._is_alive()
            if failures == TRIES:
                raise LineGivenUp(answer.reason)
            seconds = answer.retry_after or pause * random.uniform(0.5, 1)
            if time.monotonic() + seconds > give_up:
                raise CannotGoOn(f"The API is not available: {answer.reason}")
            self._tell(f"Waiting for the API: {answer.reason}")
            time.sleep(seconds)
            pause = min(pause * 2, LONGEST_PAUSE)

    def _try(
        self,
        method: str,
        path: str,
        *,
        headers: dict[str, str] | None = None,
        body: bytes | None = None,
    ) -> Answer:
        waiting = {"Prefer": f"wait={WAIT_SECONDS}", **self._pool.headers, **(headers or {})}
        try:
            response = self._pool.request(method, self._url + path, body=body, headers=waiting)
        except HTTPError as error:
            return Answer(UNREACHABLE, {"detail": _explain(error)})
        try:
            document = json.loads(response.data)
        except ValueError:
            document = None
        if isinstance(document, dict) and response.status not in REDIRECTS:
            return Answer(response.status, document, _seconds(response.headers.get("Retry-After")))
        # Something between us and the API answered in its place.
        status = response.status if response.status in BUSY else UNREACHABLE
        return Answer(status, {"detail": f"something else answered (HTTP {response.status})."})

    def _is_alive(self) -> bool:
        return self._try("GET", "/health").status == 200


def _seconds(header: str | None) -> float | None:
    return float(header) if header and header.isdecimal() else None


def _explain(error: HTTPError) -> str:
    """Why there is no answer; the library's own words name its classes and addresses."""
    sentences = {
        NameResolutionError: "the host name does not resolve.",
        NewConnectionError: "nothing listens there.",
        TimeoutError: "no answer in time.",
        ProtocolError: "the connection broke.",
    }
    found = (text for kind, text in sentences.items() if isinstance(error, kind))
    return next(found, f"no answer ({type(error).__name__}).")
