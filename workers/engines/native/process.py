"""The engine's process as its worker sees it: started, spoken to, heard dying, ended."""

import os
import signal
import socket
import subprocess
import sys
import threading
from multiprocessing.connection import Connection
from typing import Any

import structlog

from app.config import engine_environment
from workers.engines.base import FinishReason
from workers.engines.native import wire

# How long a process that is to end may take: a step, and the end of CUDA.
CLOSE_SECONDS = 5.0

log = structlog.get_logger(__name__)


class ProcessDied(Exception):
    """The engine's process is gone; the text says how, in a sentence for the operator."""


class EngineProcess:
    """One process. Its own thread sends; one other thread receives, and ends it."""

    def __init__(self, load: wire.Load) -> None:
        """Start the process; it lives no longer than the calling thread. Raises ProcessDied."""
        ours, theirs = socket.socketpair()
        self._connection = Connection(ours.detach())
        with theirs:
            self._process = _start(theirs.fileno())
        self.pid = self._process.pid
        self._posted = threading.Condition()
        self._messages: list[object] = [load]
        self._jobs: list[wire.Job] = []
        self._streams: list[wire.Stream] = []
        self._cancels: dict[FinishReason, list[int]] = {}
        self._over = False
        self._sender = threading.Thread(target=self._send, name="engine-sender", daemon=True)
        self._sender.start()

    def submit(self, job: wire.Job) -> None:
        """Give it a request. Never waits: what comes together travels together."""
        with self._posted:
            self._jobs.append(job)
            self._posted.notify()

    def cancel(self, key: int, reason: FinishReason) -> None:
        """End a request; never waits."""
        with self._posted:
            self._cancels.setdefault(reason, []).append(key)
            self._posted.notify()

    def stream(self, key: int, every: int) -> None:
        """Have a request told in groups of ``every`` tokens; never waits."""
        with self._posted:
            self._streams.append(wire.Stream(key, every))
            self._posted.notify()

    def say_close(self) -> None:
        """Ask it to end; ``receive`` then hears that it did."""
        with self._posted:
            self._messages.append(wire.Close())
            self._over = True
            self._posted.notify()

    def receive(self, seconds: float) -> Any:
        """The next message, None if none comes in that time; raises ProcessDied."""
        try:
            return self._connection.recv() if self._connection.poll(seconds) else None
        except (EOFError, OSError) as error:
            raise ProcessDied(self._fate()) from error

    def kill(self) -> None:
        """End it now, whatever it does."""
        self._process.kill()

    def close(self) -> None:
        """Wait until it has ended, or end it after a while; let go of all that belongs to it."""
        try:
            self._process.wait(CLOSE_SECONDS)
        except subprocess.TimeoutExpired:
            log.warning("engine_killed", pid=self.pid, reason="it did not end when it was told to")
            self.kill()
            try:
                self._process.wait(CLOSE_SECONDS)
            except subprocess.TimeoutExpired:
                # A driver that hangs keeps it in the kernel; nobody may wait for that.
                log.critical("engine_cannot_be_ended", pid=self.pid)
        self.say_close()  # to the sender: its end of the connection is broken by now
        self._sender.join()
        self._connection.close()

    def _fate(self) -> str:
        try:
            code = self._process.wait(CLOSE_SECONDS)
        except subprocess.TimeoutExpired:
            return "The engine's process closed its connection."
        if code == -signal.SIGKILL:
            return "The engine's process was killed, as the kernel does when memory runs out."
        if code < 0:
            return f"The engine's process was killed (signal {-code})."
        return f"The engine's process ended by itself (exit code {code})."

    def _send(self) -> None:
        while messages := self._collect():
            try:
                for each in messages:
                    self._connection.send(each)
            except OSError:
                return  # who receives hears it as well

    def _collect(self) -> list[object]:
        """All that is to be sent, once there is something; nothing when it is over."""
        with self._posted:
            self._posted.wait_for(
                lambda: self._messages or self._jobs or self._streams or self._cancels or self._over
            )
            jobs, self._jobs = self._jobs, []
            streams, self._streams = self._streams, []
            cancels, self._cancels = self._cancels, {}
            others, self._messages = self._messages, []
        # The order: Load comes before all else, a request before what is said of it.
        batch = [wire.Submit(jobs)] if jobs else []
        ends = [wire.Cancel(keys, why) for why, keys in cancels.items()]
        return [*others, *batch, *streams, *ends]


def _start(connection: int) -> "subprocess.Popen[bytes]":
    """A new interpreter and no fork, which CUDA does not survive."""
    module = "workers.engines.native.child"
    try:
        return subprocess.Popen(
            [sys.executable, "-m", module, str(connection), str(os.getpid())],
            pass_fds=[connection],
            env=engine_environment(),
            stdin=subprocess.DEVNULL,
        )
    except OSError as error:
        reason = f"The engine's process could not be started: {error.strerror}."
        raise ProcessDied(reason) from error
