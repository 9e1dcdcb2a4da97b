"""Checks JSON schemas before they go to the engine's process, in one more process.

A short schema can keep the compiler busy for hours: twenty patterns for the same string are enough.
A thread cannot be stopped, a process can: it dies of the first schema that takes too much of the
processor's time (checker.py), and a new one checks the next. So the engine's process only compiles
what is known to be quick.
"""

import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

import structlog

from app.config import engine_environment
from app.errors import EngineClosed, EngineLost, InvalidRequest
from workers.engines.base import CANNOT_CONSTRAIN

TOO_COMPLEX = "This JSON schema is too complex to be followed."
NOT_STARTED = "The process that checks JSON schemas did not start; another worker takes over."
DIED = "The processes that were to check this JSON schema died, one after the other."
# What took the first process, as a shortage of memory, may be over by then. And a job that is
# handed back can come again at once.
PAUSE_SECONDS = 0.5
# How long a process whose connection broke may take to be gone.
GONE_SECONDS = 5.0
# Signals that end a process by its schema's doing, and not by that of a kernel without memory: the
# timer in checker.py, and a stack that a schema of thousands of levels has used up.
BY_SCHEMA = {signal.SIGPROF, signal.SIGSEGV}
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
        wrong with it, EngineLost if it may be what kills those who check it, EngineClosed if
        nobody can be started to do it, or no more.
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
        """What is wrong with a schema, empty if nothing is; raises InvalidRequest if none can be
        followed, EngineClosed if no process starts, and EngineLost, which bounds how often that
        can be, if one that was new died before it said anything.
        """
        for pause in (PAUSE_SECONDS, 0):
            started = False
            try:
                connection = self._connection or self._start()
                started = True
                connection.send(schema)
                verdict: str = connection.recv()
            except (EOFError, OSError) as error:
                code = self._end()
                if started and code is not None and -code in BY_SCHEMA:
                    log.warning("engine.schema_too_complex", characters=len(schema))
                    return TOO_COMPLEX
                reason = type(error).__name__
                log.warning("engine.schema_checker_died", exit_code=code, error=reason)
                time.sleep(pause)
            else:
                return verdict
        raise EngineLost(DIED) if started else EngineClosed(NOT_STARTED)

    def _start(self) -> Connection:
        """The connection to a new process that waits for schemas; raises OSError or EOFError if it
        does not start, InvalidRequest if this tokenizer allows no schemas, EngineClosed.
        """
        if self._closed:
            raise EngineClosed
        tokenizer_json = as_json(self._tokenizer)
        if tokenizer_json is None:
            raise InvalidRequest(CANNOT_CONSTRAIN)
        ours, theirs = socket.socketpair()
        with ours, theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "workers.engines.native.checker", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                env=engine_environment(),
                stdin=subprocess.DEVNULL,
            )
            self._connection = connection = Connection(ours.detach())
        connection.send((tokenizer_json, len(self._tokenizer)))
        if not connection.recv():
            self._end()
            raise InvalidRequest(CANNOT_CONSTRAIN)
        return connection

    def _end(self) -> int | None:
        """Let go of the process; its exit code, None if there was none."""
        connection, process = self._connection, self._process
        self._connection = self._process = None
        if connection is not None:
            connection.close()
        if process is None:
            return None
        # It ends with its connection, if it has not ended before; its own exit code says how.
        with suppress(subprocess.TimeoutExpired):
            process.wait(GONE_SECONDS)
        process.kill()
        return process.wait()
