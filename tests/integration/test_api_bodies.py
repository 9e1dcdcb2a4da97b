"""Bodies that are no JSON, or too much of it; the large ones over a real socket."""

import json
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient
from pytest import Subtests

from app.config import Settings
from scripts.stack import ports, processes
from tests.conftest import ROOT, Customer
from tests.integration.conftest import PostText, Problem

MIB = 1 << 20
NOT_JSON_TYPES = [
    None,
    "",
    "text/plain",
    "application/x-www-form-urlencoded",
    "multipart/form-data; boundary=x",
    "application/jsonp",
    "application/json-seq",
]
INVALID = [
    b"",
    b" ",
    b"{",
    b"{]",
    b'{"model": "fake", "prompt": "a"} x',
    b'{"model": "fake", "prompt": "a",}',
    b"{'model': 'fake'}",
    b'{"model": "fake", "prompt": "a\nb"}',
    b'{"model": "fake", "prompt": "\xff"}',
    b'{"model": "fake", "prompt": "\xed\xa0\x80"}',
    b'{"model": "fake", "prompt": "\\x41"}',
    b'{"model": "fake", "max_tokens": 0x10}',
    b'{"model": "fake", "max_tokens": 010}',
    b"\xef\xbb\xbf{}",
    json.dumps({"model": "fake", "prompt": "a"}).encode("utf-16"),
]


def test_a_body_of_another_type_is_refused(
    client: FlaskClient, problem: Problem, subtests: Subtests
) -> None:
    for content_type in NOT_JSON_TYPES:
        with subtests.test(content_type=content_type):
            response = client.post("/api/v1/generate", data=b"{}", content_type=content_type)
            problem(response, 415, "not_json")


@pytest.mark.parametrize("content_type", ["application/json; charset=utf-8", "Application/JSON"])
def test_a_json_type_may_be_written_in_its_own_ways(client: FlaskClient, content_type: str) -> None:
    body = json.dumps({"model": "fake", "prompt": "a"})
    response = client.post("/api/v1/generate", data=body, content_type=content_type)
    assert response.status_code == 202


def test_invalid_json_is_refused(post_text: PostText, problem: Problem, subtests: Subtests) -> None:
    for body in INVALID:
        with subtests.test(body=body):
            problem(post_text(body), 400, "invalid_json")


def test_json_that_is_no_object_is_refused(
    post_text: PostText, problem: Problem, subtests: Subtests
) -> None:
    for body in ("null", "1", '"text"', "[]", '[{"model": "fake"}]', "true"):
        with subtests.test(body=body):
            members = problem(post_text(body), 422, "invalid_request")
            assert [each["field"] for each in members["errors"]] == ["body"]


@pytest.mark.parametrize("pair", ["[]", '{"a":}'])
def test_json_nested_a_hundred_thousand_deep_is_refused(
    post_text: PostText, problem: Problem, pair: str
) -> None:
    opening, closing = pair[:-1], pair[-1]
    value = opening * 100_000 + "1" + closing * 100_000
    problem(post_text(f'{{"model": "fake", "prompt": {value}}}'), 400, "invalid_json")


def test_a_body_of_one_mebibyte_is_read_and_one_byte_more_is_not(
    post_text: PostText, problem: Problem
) -> None:
    head = '{"model": "fake", "prompt": "'
    tail = '"}'
    most = head + "a" * (MIB - len(head) - len(tail)) + tail
    assert post_text(most).status_code == 202
    problem(post_text(most + " "), 413, "body_too_large")


@pytest.fixture
def server(settings: Settings, customer: Customer, tmp_path: Path) -> Iterator[int]:
    """The port of the API behind gunicorn, as in production."""
    port = ports.find_free()
    environment = {
        "DATABASE_URL": settings.database_url,
        "REDIS_URL": settings.redis_url,
        "GPTQUEUE_CATALOG_FILE": str(settings.catalog_file),
        "GUNICORN_CMD_ARGS": f"--workers 1 --bind 127.0.0.1:{port}",
    }
    gunicorn = [sys.executable, "-m", "gunicorn", "--config", "python:app.server"]
    command = processes.Command([*gunicorn, "app.api:create_app()"], environment)
    with (tmp_path / "log").open("wb") as log:
        process = processes.start(command, log, ROOT)
    try:
        _wait_until_it_listens(port)
        yield port
    finally:
        processes.stop(process, command, 20)


def _wait_until_it_listens(port: int) -> None:
    for _ in range(600):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise AssertionError("gunicorn does not listen")


Chunks = bytes | Iterator[bytes]
Send = Callable[[Chunks], tuple[int, dict[str, Any]]]


@pytest.fixture
def send(server: int, customer: Customer) -> Send:
    """Post a body over a socket: with its length when it is bytes, else in chunks."""
    headers = {**customer.headers, "Content-Type": "application/json"}

    def post(body: Chunks) -> tuple[int, dict[str, Any]]:
        with closing(HTTPConnection("127.0.0.1", server)) as connection:
            connection.request("POST", "/api/v1/generate", body, headers)
            response = connection.getresponse()
            return response.status, json.loads(response.read())

    return post


def test_a_large_body_is_refused_over_a_real_socket(send: Send) -> None:
    for length in (MIB + 1, MIB + 2, 8 * MIB):
        status, members = send(b" " * length)
        assert (status, members["code"]) == (413, "body_too_large")


def test_a_large_chunked_body_is_refused_over_a_real_socket(send: Send) -> None:
    body = b'{"model": "fake", "prompt": "a"}'.ljust(MIB)
    for rest in (b" ", b" " * MIB):
        status, members = send(iter([body, rest]))
        assert (status, members["code"]) == (413, "body_too_large")


def test_a_chunked_body_is_a_job_over_a_real_socket(send: Send) -> None:
    status, job = send(iter([b'{"model": "fake",', b' "prompt": "a b"}', b" " * (MIB - 34)]))
    assert (status, job["status"]) == (202, "queued")
