"""What the tests of the API share."""

import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import func, select, text, update
from werkzeug.test import TestResponse

from app import cli
from app.billing.tables import Balance
from app.db import Database
from app.jobs.tables import Job
from app.webhooks.tables import Delivery
from scripts.stack import ports
from tests.conftest import CATALOG, Customer
from tests.integration import standin
from tests.integration.commands import Commands
from tests.integration.live import served, working
from workers.engines.native import wire
from workers.engines.native.engine import NativeEngine
from workers.engines.native.restarts import Patience
from workers.process import Process

Problem = Callable[[TestResponse, int, str], dict[str, Any]]
Submit = Callable[..., TestResponse]
PostText = Callable[..., TestResponse]
Deliver = Callable[[], Delivery]
Open = Callable[..., NativeEngine]
Command = Callable[..., tuple[int, str, str]]

ADAPTER = """
[models.{name}]
enabled = true
description = "{name}"
context_length = 80
input_price_micros = {price}
output_price_micros = {price}
version = "7"
[models.{name}.versions.7]
source = "{name}"
base = "fake"
"""
RESTARTS_SOON = Patience(first_seconds=0.01, most_seconds=0.05)


@pytest.fixture
def adapters_file(tmp_path: Path) -> Path:
    """A catalog in which "fake" has two adapters, each with prices of its own."""
    path = tmp_path / "catalog.toml"
    verse = ADAPTER.format(name="verse", price=5_000_000)
    path.write_text(CATALOG + verse + ADAPTER.format(name="terse", price=7_000_000))
    return path


@pytest.fixture
def open_engine() -> Iterator[Open]:
    """Start an engine; what is not its own goes to the stand-in."""
    engines = []

    def start(
        factory: str = "build",
        *,
        tokenizer: Any = None,
        stall_seconds: float = 60,
        patience: Patience = RESTARTS_SOON,
        publish: Callable[..., None] = lambda deltas: None,
        **how: Any,
    ) -> NativeEngine:
        engine = NativeEngine(
            wire.Load(f"tests.integration.standin:{factory}", how),
            tokenizer=tokenizer or standin.Characters(),
            context_length=200_000,
            slots=8,
            stall_seconds=stall_seconds,
            patience=patience,
            publish=publish,
        )
        engines.append(engine)
        return engine

    yield start
    for engine in engines:
        engine.close()


@pytest.fixture
def problem() -> Problem:
    """Check that an answer is RFC 9457 problem details of one kind; returns its members."""

    def check(response: TestResponse, status: int, code: str) -> dict[str, Any]:
        members = response.get_json()
        assert (response.status_code, members["code"]) == (status, code), members
        assert response.content_type == "application/problem+json"
        assert members["status"] == status
        assert members["type"] == f"urn:gptqueue:error:{code}"
        assert members["title"]
        assert members["detail"]
        assert members["request_id"] == response.headers["X-Request-ID"]
        return members

    return check


@pytest.fixture
def submit(client: FlaskClient) -> Submit:
    """Submit a small prompt; what the test names is added or replaced."""

    def post(path: str = "generate", **fields: Any) -> TestResponse:
        text = {"messages": [{"role": "user", "content": "hi"}]} if path == "chat" else {}
        body = {"model": "fake", **(text or {"prompt": "one two three"}), **fields}
        return client.post(f"/api/v1/{path}", json=body)

    return post


@pytest.fixture
def post_text(client: FlaskClient) -> PostText:
    """Post a body that no JSON library would write."""

    def post(body: str | bytes, path: str = "generate") -> TestResponse:
        return client.post(f"/api/v1/{path}", data=body, content_type="application/json")

    return post


@pytest.fixture
def untouched(database: Database, customer: Customer) -> Callable[[], bool]:
    """Whether the account is as it was opened: no job, nothing held, nothing spent."""
    with database.transaction() as session:
        credit = session.get_one(Balance, customer.id).available_micros

    def look() -> bool:
        with database.transaction() as session:
            balance = session.get_one(Balance, customer.id)
            jobs = session.scalar(select(func.count()).select_from(Job))
            return (jobs, balance.available_micros, balance.held_micros) == (0, credit, 0)

    return look


@pytest.fixture
def closed_port() -> int:
    """A port of this machine on which nothing listens."""
    return ports.find_free()


class Receiver(ThreadingHTTPServer):
    """Answers with the next of ``answers``, or 200 when there is none left."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}/hook?a=b"
        self.answers: list[tuple[int, dict[str, str]]] = []
        self.received: list[tuple[str, dict[str, str], bytes]] = []
        self.came = threading.Semaphore(0)

    def wait_for(self, number: int, seconds: float) -> bool:
        """Whether that many have come in that time."""
        return all(self.came.acquire(timeout=seconds) for _ in range(number))


class _Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.server.received.append((self.path, headers, body))
        self.server.came.release()
        status, more = self.server.answers.pop(0) if self.server.answers else (200, {})
        self.send_response(status)
        for name, value in more.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """A customer's server."""
    with Receiver() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def delivery(database: Database) -> Delivery:
    """The only one there is."""
    with database.transaction() as session:
        return session.scalars(select(Delivery)).one()


@pytest.fixture
def attempt(process: Process, database: Database) -> Deliver:
    """Make the delivery due, let a worker try it, and read what was written."""

    def run() -> Delivery:
        with database.transaction() as session:
            session.execute(update(Delivery).values(next_attempt_at=text("now()")))
        process.courier.deliver_due()
        process.courier.settle()
        return delivery(database)

    return run


@pytest.fixture
def deliver(process: Process, database: Database) -> Callable[[], None]:
    """Make an attempt at all that is pending."""

    def run() -> None:
        with database.transaction() as session:
            session.execute(
                update(Delivery)
                .where(Delivery.state == "pending")
                .values(next_attempt_at=text("now()"))
            )
        process.courier.deliver_due()
        process.courier.settle()

    return run


@pytest.fixture
def abandon(database: Database) -> Callable[[], None]:
    """Let every schedule be used up."""

    def run() -> None:
        with database.transaction() as session:
            session.execute(
                update(Delivery)
                .where(Delivery.state == "pending")
                .values(state="abandoned", ended_at=text("now()"), attempts=10)
            )

    return run


@pytest.fixture
def pending(submit: Submit, work: Callable[[], None], receiver: Receiver) -> Receiver:
    """A receiver for which one event waits."""
    submit(webhook_url=receiver.url)
    work()
    return receiver


@pytest.fixture
def live_url(api: Flask, process: Process) -> Iterator[str]:
    """Where the API and a worker that takes jobs are."""
    with served(api) as url, working(process):
        yield url


@pytest.fixture
def environment(live_url: str, customer: Customer, tmp_path: Path) -> dict[str, str]:
    """What a customer exports."""
    return {
        "GPTQUEUE_URL": live_url,
        "GPTQUEUE_API_KEY": customer.key,
        "XDG_CONFIG_HOME": str(tmp_path / "config"),
    }


@pytest.fixture
def gptqueue(environment: dict[str, str]) -> Iterator[Commands]:
    """The command."""
    commands = Commands(environment)
    yield commands
    commands.stop()


@pytest.fixture
def command(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Command:
    """The command in this process, which starts sooner: exit code, output and errors."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    def run(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = cli.main(arguments)
        said = capsys.readouterr()
        return code, said.out, said.err

    return run
