"""Checks JSON schemas before they go to the engine's process, in one more process.

A short schema can keep the compiler busy for hours: twenty patterns for the same string are enough.
A thread cannot be stopped, a process can: it dies of the first schema that takes too much of the
processor's time (checker.py), and a new one checks the next. So the engine's process only compiles
what is known to be quick.
"""

import socket
import subprocess
import sys
import threading
from multiprocessing.connection import Connection
from typing import Any

import structlog

from app.config import engine_environment
from app.errors import EngineClosed, EngineFailed, InvalidRequest
from workers.engines.base import CANNOT_CONSTRAIN

TOO_COMPLEX = "This JSON schema is too complex to be followed."
# Verdicts that are remembered, so that a schema is checked once.
KEPT = 256

log = structlog.get_logger(__name__)


def as_json(tokenizer: Any) -> str | None:
    """A fast tokenizer as its file tokenizer.json, wherever it came from; None for a slow one."""
    fast = getattr(tokenizer, "backend_tokenizer", None)
    return fast and str(fast.to_str())


class Schemas:
    """Checks for one tokenizer; any thread may ask. The process starts with the first schema."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._lock = threading.Lock()
        self._verdicts: dict[str, str] = {}  # what is wrong with a schema, empty: nothing
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None
        self._closed = False

    def check(self, schema: str) -> None:
        """Wait until the schema, given as text, is checked; raises InvalidRequest with what is
        wrong with it, EngineFailed if it cannot be checked, EngineClosed.
        """
        problem = self._verdicts.get(schema)
        if problem is None:
            with self._lock:
                problem = self._ask(schema)
                if len(self._verdicts) >= KEPT:
                    del self._verdicts[next(iter(self._verdicts))]
                self._verdicts[schema] = problem
        if problem:
            raise InvalidRequest(problem)

    def close(self) -> None:
        """End the process; there will be no other."""
        with self._lock:
            self._closed = True
            self._end()

    def _ask(self, schema: str) -> str:
        connection = self._connection or self._start()
        try:
            connection.send(schema)
            verdict: str = connection.recv()
        except (EOFError, OSError):
            self._end()
            log.warning("engine.schema_too_complex", characters=len(schema))
            return TOO_COMPLEX
        return verdict

    def _start(self) -> Connection:
        """The connection to a new process that waits for schemas."""
        if self._closed:
            raise EngineClosed
        tokenizer_json = as_json(self._tokenizer)
        if tokenizer_json is None:
            raise InvalidRequest(CANNOT_CONSTRAIN)
        ours, theirs = socket.socketpair()
        self._connection = Connection(ours.detach())
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "workers.engines.native.checker", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                env=engine_environment(),
                stdin=subprocess.DEVNULL,
            )
        try:
            self._connection.send((tokenizer_json, len(self._tokenizer)))
            readable = self._connection.recv()
        except (EOFError, OSError) as error:
            self._end()
            raise EngineFailed("The process that checks JSON schemas did not start.") from error
        if not readable:
            self._end()
            raise InvalidRequest(CANNOT_CONSTRAIN)
        return self._connection

    def _end(self) -> None:
        if self._connection is not None:
            self._connection.close()
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._connection = self._process = None
