"""Jobs over a WebSocket."""

import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import requests
from flask import Flask
from flask.testing import FlaskClient
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from tests.conftest import CATALOG, Customer
from tests.integration.conftest import Problem, Submit
from tests.integration.live import served, working
from workers.process import Process


@pytest.fixture
def catalog_file(tmp_path: Path) -> Path:
    """A model with 100 words a second."""
    path = tmp_path / "fast.toml"
    slower = 'source = "fake:tokens_per_second=100&answer_tokens=30"'
    path.write_text(CATALOG.replace('source = "fake:"', slower, 1))
    return path


@pytest.fixture
def address(api: Flask, process: Process) -> Iterator[str]:
    """Where the API and its worker are."""
    with served(api) as url, working(process):
        yield url.replace("http:", "ws:") + "/api/v1/jobs"


def listen(address: str, customer: Customer) -> ClientConnection:
    return connect(address, additional_headers=customer.headers)


def test_a_socket_tells_what_the_stream_tells_and_is_closed(
    address: str, customer: Customer, submit: Submit, client: FlaskClient
) -> None:
    job_id = submit(max_tokens=30).get_json()["id"]
    with listen(f"{address}/{job_id}/ws", customer) as socket:
        messages = [json.loads(message) for message in socket]
    assert socket.close_code == 1000
    assert {each["event"] for each in messages} == {"status", "delta", "end"}
    job = client.get(f"/api/v1/jobs/{job_id}").get_json()
    text = "".join(each["data"]["text"] for each in messages if each["event"] == "delta")
    assert text == job["output"]["text"]
    assert messages[-1] == {"event": "end", "id": "end", "data": job}
    place = next(each["id"] for each in messages if each["event"] == "delta")
    with listen(f"{address}/{job_id}/ws?after={place}", customer) as socket:
        delta, end = (json.loads(message) for message in socket)
    assert delta["data"]["text"] == text[int(place.partition(":")[2]) :]
    assert end == messages[-1]


def test_a_listener_that_leaves_disturbs_nobody(
    address: str, customer: Customer, submit: Submit, client: FlaskClient
) -> None:
    job_id = submit(max_tokens=30).get_json()["id"]
    with listen(f"{address}/{job_id}/ws", customer) as socket:
        next(iter(socket))
    answer = client.get(f"/api/v1/jobs/{job_id}", headers={"Prefer": "wait=20"})
    assert answer.get_json()["status"] == "succeeded"


def test_what_a_listener_says_is_neither_kept_nor_taken_long(
    address: str, customer: Customer, submit: Submit
) -> None:
    job_id = submit(max_tokens=30).get_json()["id"]
    with listen(f"{address}/{job_id}/ws", customer) as socket:
        for _ in range(20):
            socket.send("x" * 1000)
        assert [json.loads(message)["event"] for message in socket][-1] == "end"
    with listen(f"{address}/{job_id}/ws", customer) as socket, suppress(ConnectionClosed):
        socket.send("x" * 100_000)
        list(socket)
    assert socket.close_code in {1000, 1009, 1006}


def test_after_the_end_there_is_nothing(
    address: str, customer: Customer, submit: Submit, client: FlaskClient
) -> None:
    job_id = submit().get_json()["id"]
    client.get(f"/api/v1/jobs/{job_id}", headers={"Prefer": "wait=20"})
    with listen(f"{address}/{job_id}/ws?after=end", customer) as socket:
        assert list(socket) == []
    assert socket.close_code == 1000


@pytest.mark.parametrize("missing", ["Sec-WebSocket-Version", "Sec-WebSocket-Key", "Connection"])
def test_half_a_handshake_is_none(
    address: str, customer: Customer, submit: Submit, missing: str
) -> None:
    job_id = submit().get_json()["id"]
    whole = {
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "x" * 24,
    }
    half = {name: value for name, value in whole.items() if name != missing}
    url = f"{address}/{job_id}/ws".replace("ws:", "http:", 1)
    answer = requests.get(url, headers={**customer.headers, **half}, timeout=20)
    assert answer.status_code in {400, 426}
    assert answer.headers["Content-Type"] == "application/problem+json"


def test_what_is_no_socket_or_nobodys_job_is_refused(
    address: str,
    customer: Customer,
    submit: Submit,
    client: FlaskClient,
    problem: Problem,
) -> None:
    job_id = submit().get_json()["id"]
    problem(client.get(f"/api/v1/jobs/{job_id}/ws"), 426, "upgrade_required")
    problem(client.get("/api/v1/jobs/x/ws"), 404, "job_not_found")
    with pytest.raises(InvalidStatus) as refused:
        connect(f"{address}/{job_id}/ws")
    assert refused.value.response.status_code == 401
