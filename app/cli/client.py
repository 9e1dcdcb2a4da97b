"""The API over HTTP. What is asked can be asked again: a submit carries an Idempotency-Key."""

import time
from collections.abc import Mapping
from typing import Any
from uuid import uuid4

import requests
from requests.exceptions import InvalidURL, MissingSchema, SSLError, Timeout
from requests.models import PreparedRequest
from urllib3.exceptions import NameResolutionError, NewConnectionError

from app.cli.problem import FAILED, UNASKED, Problem

Json = dict[str, Any]

BUSY = {429, 502, 503, 504}
TRIES, PATIENT_TRIES = 4, 20  # the latter take two minutes and a half
CONNECT_SECONDS, ANSWER_SECONDS, SILENCE_SECONDS = 10, 30, 45
LONGEST_WAIT = 30
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 10.0


class Unreachable(Exception):
    """There was no answer, and why."""

    def __init__(self, reason: str, *, refused: bool) -> None:
        super().__init__(reason)
        self.refused = refused


class _Bearer(requests.auth.AuthBase):
    """Given as such, because requests prefers a password of ``~/.netrc`` to a header."""

    def __init__(self, key: str) -> None:
        self._key = key

    def __call__(self, request: PreparedRequest) -> PreparedRequest:
        if self._key:
            request.headers["Authorization"] = f"Bearer {self._key}"
        return request


class Client:
    """One API and one key."""

    def __init__(self, url: str, key: str) -> None:
        self.url = url.rstrip("/")
        self._session = requests.Session()
        self._session.auth = _Bearer(key)
        self._session.headers["User-Agent"] = "gptqueue-cli/1"

    def get(self, path: str, **query: Any) -> Json:
        """Read; raises Problem."""
        wanted = {name: value for name, value in query.items() if value is not None}
        return self.ask("GET", path, params=wanted)

    def submit(self, endpoint: str, body: Json) -> Json:
        """Submit a job, once, however often the answer gets lost; raises Problem."""
        headers = {"Idempotency-Key": f"cli-{uuid4()}"}
        return self.ask("POST", f"/{endpoint}", json=body, headers=headers)

    def job(self, job_id: str, wait_seconds: int = 0) -> Json:
        """A job, when it has ended or after so many seconds; raises Problem.

        Who waits does not mind that the API is started again meanwhile.
        """
        path = f"/jobs/{job_id}"
        if not wait_seconds:
            return self.ask("GET", path)
        headers = {"Prefer": f"wait={wait_seconds}"}
        silence = wait_seconds + ANSWER_SECONDS
        return self.ask("GET", path, patient=True, headers=headers, timeout=silence)

    def cancel(self, job_id: str) -> Json:
        """Cancel a job; raises Problem."""
        return self.ask("POST", f"/jobs/{job_id}/cancel")

    def ask(self, method: str, path: str, *, patient: bool = False, **how: Any) -> Json:
        """The answer, as JSON; tried again while the API is busy or breaks off, and where we are
        ``patient`` also while it is away. Raises Problem.
        """
        pause, error = _FIRST_PAUSE, None
        tries = PATIENT_TRIES if patient else TRIES
        for number in range(1, tries + 1):
            try:
                answer = self.send(method, path, **how)
                if answer.status_code not in BUSY or number == tries:
                    return read(answer)
                pause = _retry_after(answer.headers) or pause
            except Unreachable as reason:
                error = reason
                if number == tries or (reason.refused and not patient):
                    break
            time.sleep(min(pause, _LONGEST_PAUSE))
            pause *= 2
        raise Problem(f"{self.url}: {error} Is the API running, and GPTQUEUE_URL right?")

    def send(
        self, method: str, path: str, *, timeout: float = ANSWER_SECONDS, **how: Any
    ) -> requests.Response:
        """One try; raises Unreachable when there is no answer, and Problem for a wrong URL."""
        address = f"{self.url}/api/v1{path}"
        limits = (CONNECT_SECONDS, timeout)
        try:
            return self._session.request(
                method, address, timeout=limits, allow_redirects=False, **how
            )
        except (InvalidURL, MissingSchema, requests.exceptions.InvalidSchema):
            raise Problem(
                f"{self.url!r} is no address of an API; one looks like http://127.0.0.1:8000."
            ) from None
        except requests.RequestException as error:
            raise unreachable(error) from None


def read(answer: requests.Response) -> Json:
    """The document; raises Problem for every answer that is none, or says no."""
    try:
        document = answer.json()
    except ValueError:
        document = None
    if not isinstance(document, dict) or 300 <= answer.status_code < 400:
        raise Problem(
            f"{answer.url}: something else answers there (HTTP {answer.status_code}). "
            "Is GPTQUEUE_URL right?"
        )
    if answer.status_code >= 400:
        raise Problem(_refusal(document, answer.status_code), _code(document, answer.status_code))
    return document


def unreachable(error: Exception) -> Unreachable:
    """Why there is no answer; the library's own words name its classes and addresses."""
    reason = getattr(error.args[0], "reason", None) if error.args else None
    if isinstance(error, Timeout):
        return Unreachable("no answer in time.", refused=False)
    if isinstance(error, SSLError):
        return Unreachable("its certificate cannot be verified.", refused=True)
    if isinstance(reason, NameResolutionError):
        return Unreachable("the host name does not resolve.", refused=True)
    if isinstance(reason, NewConnectionError):
        return Unreachable("nothing listens there.", refused=True)
    return Unreachable("the connection broke.", refused=False)


def _refusal(document: Json, status: int) -> str:
    sentence = str(document.get("detail") or f"The API answers HTTP {status}.")
    if known := document.get("known_models"):
        sentence += f" There are: {', '.join(known)}."
    if status == 401:
        sentence += " Set GPTQUEUE_API_KEY, or give --key."
    return sentence


def _code(document: Json, status: int) -> int:
    """1 where the API understood and the answer is no; 2 where it could not be asked."""
    no = status in {402, 404, 409} and document.get("code") != "route_not_found"
    return FAILED if no else UNASKED


def _retry_after(headers: Mapping[str, str]) -> float | None:
    given = headers.get("Retry-After", "")
    return float(given) if given.isdecimal() else None
