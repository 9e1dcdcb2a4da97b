"""``gptqueue chat`` in a terminal."""

import contextlib
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import select as select_rows

from app.db import Database
from app.jobs.tables import Job, Prompt
from tests.conftest import CATALOG, ROOT, Customer
from tests.integration.commands import await_true
from tests.integration.live import served


class Terminal:
    """A conversation."""

    def __init__(self, environment: dict[str, str], *words: str) -> None:
        self._ours, theirs = pty.openpty()
        kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "app.cli", *words],
            env={**kept, "PYTHONPATH": str(ROOT), "TERM": "xterm", **environment},
            cwd=ROOT,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
        )
        os.close(theirs)
        self.shown = ""

    def type(self, text: str) -> None:
        """Press keys."""
        os.write(self._ours, text.encode())

    def await_text(self, text: str, seconds: float = 20) -> str:
        """Everything that was shown up to and with this; it is then forgotten."""
        until = time.monotonic() + seconds
        while text not in self.shown:
            assert time.monotonic() < until, self.shown
            if select.select([self._ours], [], [], 0.1)[0]:
                self.shown += os.read(self._ours, 1 << 16).decode(errors="replace")
        before, _, self.shown = self.shown.partition(text)
        return before + text

    def interrupt(self, seconds: float = 20) -> int:
        """Press Ctrl-C until it ends; its exit code.

        Once may be too early: Python's readline prints the prompt first and looks for signals
        only once it waits for a key.
        """
        until = time.monotonic() + seconds
        while self.process.poll() is None:
            assert time.monotonic() < until, self.shown
            self.process.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(1)
        return self.process.returncode

    def close(self) -> None:
        """End it."""
        self.process.kill()
        self.process.wait()
        os.close(self._ours)


@pytest.fixture
def catalog_file(tmp_path: Path) -> Path:
    """A model with 20 words a second."""
    path = tmp_path / "slow.toml"
    path.write_text(CATALOG.replace('source = "fake:"', 'source = "fake:tokens_per_second=20"', 1))
    return path


@pytest.fixture
def talk(environment: dict[str, str]) -> Iterator[Callable[..., Terminal]]:
    """Begin a conversation."""
    begun: list[Terminal] = []

    def begin(*words: str) -> Terminal:
        begun.append(Terminal(environment, "chat", *words))
        return begun[-1]

    yield begin
    for each in begun:
        each.close()


def statuses(database: Database) -> list[str]:
    """Of all jobs."""
    with database.transaction() as session:
        return list(session.scalars(select_rows(Job.status)))


def test_a_conversation_keeps_its_turns_until_ctrl_d(
    talk: Callable[..., Terminal], database: Database
) -> None:
    terminal = talk("--system", "be brief", "--max-tokens", "4")
    terminal.await_text("A conversation with fake; Ctrl-D ends it.")
    terminal.await_text("> ")
    terminal.type("hello there\n")
    terminal.await_text("> ")
    terminal.type("and again\n")
    terminal.await_text("> ")
    terminal.type("\x04")
    assert terminal.process.wait(20) == 0
    with database.transaction() as session:
        first, second = session.scalars(select_rows(Prompt).order_by(Prompt.job_id))
    assert [each["role"] for each in first.messages or ()] == ["system", "user"]
    assert [each["role"] for each in second.messages or ()] == [
        *("system", "user", "assistant", "user")
    ]
    assert (second.messages or [])[3]["content"] == "and again"


def test_ctrl_c_ends_the_answer_and_not_the_conversation(
    talk: Callable[..., Terminal], database: Database
) -> None:
    terminal = talk("--max-tokens", "80")
    terminal.await_text("> ")
    terminal.type("hello there\n")
    await_true(lambda: statuses(database) == ["running"])
    terminal.process.send_signal(signal.SIGINT)
    terminal.await_text("That turn is forgotten; the conversation goes on.")
    terminal.await_text("> ")
    assert statuses(database) == ["cancelled"]
    terminal.type(f"{'word ' * 120}\n")  # more than the model takes
    terminal.await_text("gptqueue: ")
    terminal.await_text("the conversation goes on.")
    terminal.await_text("> ")
    assert terminal.interrupt() == 130


def test_while_a_job_waits_the_terminal_says_why(
    api: Flask, customer: Customer, client: FlaskClient
) -> None:
    with served(api) as url:  # without a worker
        keys = {"GPTQUEUE_URL": url, "GPTQUEUE_API_KEY": customer.key}
        terminal = Terminal(keys, "chat", "hello", "--model", "fake")
        try:
            terminal.await_text("Waiting: no worker serves this model now, first.")
            terminal.process.send_signal(signal.SIGINT)
            terminal.await_text("is cancelled; 0 prompt + 0 completion tokens, 0.000000 USD.")
            assert terminal.process.wait(20) == 130
        finally:
            terminal.close()
    assert client.get("/api/v1/jobs").get_json()["data"][0]["status"] == "cancelled"
