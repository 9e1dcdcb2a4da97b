"""How a batch takes answers that are none: from a local server that plays a part."""

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from types import SimpleNamespace
from typing import Any

import pytest

from app.cli.batch import api as batch_api
from app.cli.batch.api import TRIES, Api
from app.cli.batch.errors import CannotGoOn, LineGivenUp

JOB = {"id": "1", "status": "succeeded"}


class Theatre(HTTPServer):
    """Gives these answers to submits, the last one for ever; is always in good health."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Actor)
        self.script: list[tuple[int, dict[str, str], Any]] = []
        self.keys: list[str] = []

    def next_answer(self) -> tuple[int, dict[str, str], Any]:
        return self.script.pop(0) if len(self.script) > 1 else self.script[0]


class Actor(BaseHTTPRequestHandler):
    server: Theatre

    def do_GET(self) -> None:
        self._say(200, {}, {"status": "alive"})

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.server.keys.append(self.headers["Idempotency-Key"])
        self._say(*self.server.next_answer())

    def log_message(self, format: str, *args: object) -> None:
        pass

    def _say(self, status: int, headers: dict[str, str], document: Any) -> None:
        body = json.dumps(document).encode()
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def theatre() -> Iterator[Theatre]:
    """The server, listening."""
    with Theatre() as theatre:
        thread = threading.Thread(target=theatre.serve_forever, args=(0.01,))
        thread.start()
        yield theatre
        theatre.shutdown()
        thread.join()


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that would have been slept."""
    slept: list[float] = []
    # Not the module's own sleep: threads that other tests left behind sleep as well.
    clock = SimpleNamespace(sleep=slept.append, monotonic=time.monotonic)
    monkeypatch.setattr(batch_api, "time", clock)
    return slept


@pytest.fixture
def told() -> list[str]:
    """What the user was told."""
    return []


@pytest.fixture
def api(theatre: Theatre, told: list[str], pauses: list[float]) -> Api:
    """A client with a minute of patience that does not really sleep."""
    url = f"http://127.0.0.1:{theatre.server_port}"
    return Api(url, "key", threads=1, patience=60, tell=told.append)


def submit(api: Api) -> Any:
    return api.submit("generate", b"{}", "the-key").document


@pytest.mark.parametrize("status", [429, 503])
def test_retry_after_is_obeyed(
    api: Api, theatre: Theatre, pauses: list[float], told: list[str], status: int
) -> None:
    theatre.script = [(status, {"Retry-After": "7"}, {"detail": "Busy."}), (202, {}, JOB)]
    assert submit(api) == JOB
    assert pauses == [7]
    assert told == ["Waiting for the API: Busy."]
    assert theatre.keys == ["the-key", "the-key"]


def test_without_retry_after_the_pauses_grow(
    api: Api, theatre: Theatre, pauses: list[float]
) -> None:
    theatre.script = [(502, {}, "a proxy")] * 3 + [(202, {}, JOB)]
    assert submit(api) == JOB
    assert 0.25 <= pauses[0] <= 0.5 <= pauses[1] <= 1 <= pauses[2] <= 2


def test_a_wait_beyond_the_patience_stops_the_batch(api: Api, theatre: Theatre) -> None:
    theatre.script = [(429, {"Retry-After": "3600"}, {"detail": "Tomorrow."})]
    with pytest.raises(CannotGoOn, match="Tomorrow"):
        submit(api)


@pytest.mark.parametrize("answer", [(500, {}, {"detail": "Oh."}), (302, {}, {}), (200, {}, "?")])
def test_a_line_that_only_ever_fails_is_given_up(
    api: Api, theatre: Theatre, answer: tuple[int, dict[str, str], Any]
) -> None:
    theatre.script = [answer]
    with pytest.raises(LineGivenUp):
        submit(api)
    assert len(theatre.keys) == TRIES


def test_a_refusal_is_final(api: Api, theatre: Theatre, pauses: list[float]) -> None:
    theatre.script = [(422, {}, {"code": "invalid_request"})]
    assert submit(api) == {"code": "invalid_request"}
    assert pauses == []
