"""What the tests of the promises share: processes that can be killed, and many submits at once."""

import sys
import threading
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from uuid import UUID, uuid4

import requests
from sqlalchemy import text

from app import schema
from app.accounts import admin
from app.db import Database
from app.errors import DatabaseUnavailable
from scripts.stack.processes import Command
from tests import books
from tests.acceptance.conftest import MODEL
from tests.acceptance.stack import CELERY, Json, Part, Stack, answers, eventually

FAST = "fake:"  # answers at once
STEADY = "fake:tokens_per_second=20&answer_tokens=4000"
BODY = {"model": "fake", "prompt": "one two three", "max_tokens": 5}


def catalog(**sources: str) -> str:
    """A catalog of these models."""
    return "".join(MODEL.format(name=name, source=source) for name, source in sources.items())


def crash_file(stack: Stack) -> Path:
    """Where to say at which point a process is to die."""
    return stack.folder / "crash"


def start(stack: Stack, name: str, module: Sequence[str], **environment: str) -> Part:
    """Start a process that may be killed at a named point."""
    number = len(list(stack.folder.glob(f"{name}-*.log")))
    part = Part(
        Command(
            [sys.executable, "-m", *module],
            {**stack.environment, "CRASH_FILE": str(crash_file(stack)), **environment},
        ),
        stack.folder / f"{name}-{number}.log",
    )
    part.start()
    stack.closing.callback(part.stop)
    return part


def start_api(stack: Stack) -> Part:
    """The API, with its two processes."""
    bind = stack.settings.public_url.removeprefix("http://")
    factory = "tests.acceptance.crashing:create_app()"
    part = start(stack, "api", ["gunicorn", "-c", "python:app.server", "-b", bind, factory])
    eventually(partial(answers, f"{stack.settings.public_url}/api/v1/health"), "the API is up")
    return part


def start_worker(stack: Stack, name: str, queues: str, **environment: str) -> Part:
    """A worker of these queues."""
    celery = [*CELERY[:-1], "tests.acceptance.crashing_worker"]
    options = ["-Q", queues, "-P", "threads", "-c", "16", "-n", f"{name}@%h", "-E"]
    return start(stack, name, [*celery, "worker", *options], **environment)


def ready(*workers: Part) -> None:
    """Wait for these workers."""
    for worker in workers:
        eventually(partial(worker.events, "model_ready"), "the worker is ready")


@dataclass(frozen=True)
class Answer:
    """What came back for a submit."""

    status: int
    json: Json
    headers: dict[str, str]

    @property
    def replayed(self) -> bool:
        """Whether the job was there already."""
        return "Idempotent-Replayed" in self.headers


@dataclass(frozen=True)
class Account:
    """An account, how to submit with it, and what the database says about it."""

    id: UUID
    key: str
    url: str
    database: Database

    def submit(self, key: str = "", **body: object) -> Answer | None:
        """Submit on a connection of its own; None when it broke before there was an answer."""
        headers = {"Authorization": f"Bearer {self.key}"}
        with requests.Session() as session:
            session.trust_env = False
            try:
                answer = session.post(
                    f"{self.url}/api/v1/generate",
                    json={**BODY, **body},
                    headers={**headers, **({"Idempotency-Key": key} if key else {})},
                    timeout=60,
                )
            except requests.ConnectionError:
                return None
        return Answer(answer.status_code, answer.json(), dict(answer.headers))

    def act(self, path: str) -> Answer:
        """POST without a body."""
        with requests.Session() as session:
            session.trust_env = False
            headers = {"Authorization": f"Bearer {self.key}"}
            answer = session.post(f"{self.url}/api/v1/{path}", headers=headers, timeout=60)
        return Answer(answer.status_code, answer.json(), dict(answer.headers))

    def submit_at_once(self, keys: Sequence[str], **body: object) -> list[Answer | None]:
        """Submit with each of these keys, all in the same moment."""
        gate = threading.Barrier(len(keys))

        def one(key: str) -> Answer | None:
            gate.wait(60)
            return self.submit(key, **body)

        with ThreadPoolExecutor(len(keys)) as threads:
            return list(threads.map(one, keys))

    def read(self, statement: str) -> list[tuple[object, ...]]:
        """Rows about this account, which the statement calls ``:account``."""
        try:
            return self._read(statement)
        except DatabaseUnavailable:  # a connection from before the last restart
            return self._read(statement)

    def _read(self, statement: str) -> list[tuple[object, ...]]:
        with self.database.transaction() as session:
            return [tuple(row) for row in session.execute(text(statement), {"account": self.id})]

    def statuses(self) -> list[object]:
        """The status of each job, the oldest first."""
        rows = self.read("SELECT status FROM jobs WHERE account_id = :account ORDER BY id")
        return [status for (status,) in rows]

    def until_all_ended(self) -> None:
        """Wait until no job waits or runs."""
        running = {"queued", "running"}
        eventually(lambda: not running & set(self.statuses()), "all jobs end")

    def assert_each_succeeded_once(self, job_ids: Collection[str]) -> None:
        """These are all of its jobs; each has one result and one charge, and nothing is held."""
        self.until_all_ended()
        with self.database.transaction() as session:
            assert books.wrong(session, [self.id]) == []
        rows = self.read(
            "SELECT j.id, j.status, c.state FROM jobs j JOIN charges c ON c.job_id = j.id "
            "WHERE j.account_id = :account"
        )
        assert sorted(rows) == sorted((UUID(each), "succeeded", "charged") for each in job_ids)
        assert self.read("SELECT held_micros FROM balances WHERE account_id = :account") == [(0,)]


def open_account(stack: Stack, credit_micros: int = 1_000_000) -> Account:
    """A new account."""
    database = Database(stack.settings, schema.metadata)
    stack.closing.callback(database.close)
    with database.transaction() as session:
        account = admin.open_account(session, name="test", credit_micros=credit_micros)
        key = admin.issue_key(session, account_id=account.id, name="test")
        return Account(account.id, key, stack.settings.public_url, database)


def new_keys(number: int) -> list[str]:
    """Keys that nobody has used."""
    return [str(uuid4()) for _ in range(number)]


def submit(account: Account, number: int = 1, **body: object) -> list[str]:
    """Submit at once; the ids of the jobs."""
    answers = account.submit_at_once(new_keys(number), **body)
    assert all(answer and answer.status == 202 for answer in answers)
    return [answer.json["id"] for answer in answers if answer]


def attempts(account: Account) -> list[tuple[object, ...]]:
    """Worker and outcome of every attempt."""
    return account.read(
        "SELECT split_part(worker, '@', 1), outcome FROM attempts WHERE account_id = :account "
        "ORDER BY job_id, number"
    )


def running_on(account: Account, number: int) -> str:
    """The worker that has these jobs in hand, all of them."""

    def look() -> list[tuple[object, ...]]:
        now = attempts(account)
        return now if [outcome for _, outcome in now] == ["running"] * number else []

    names = {str(name) for name, _ in eventually(look, "the jobs run")}
    assert len(names) == 1, names
    return names.pop()
