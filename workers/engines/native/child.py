"""``python -m workers.engines.native.child``: the engine's process, which a worker starts.

It takes requests in, lets the loop step, and tells what is new, in this order and for ever. It
ends when its worker says so or is gone.
"""

import ctypes
import os
import pkgutil
import signal
import sys
import time
from contextlib import suppress
from dataclasses import replace
from multiprocessing.connection import Connection
from typing import Any, Protocol

import numpy as np
import structlog

from app import config, logs
from app.errors import ModelLoadFailed, UnknownArchitecture
from workers.engines.base import FinishReason, Stats
from workers.engines.breakdown import MemoryGone, gpu_failure
from workers.engines.native import wire

_CRASHED = "The engine's process failed; its log says how."
_STATS_SECONDS = 0.25
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_NOTHING = wire.Progress(np.zeros(0, np.int64), np.zeros(0, np.int32), np.zeros(0, np.int32))

log = structlog.get_logger(__name__)


class Loop(Protocol):
    """What decodes; see workers.engines.native.loop."""

    kv_tokens: int
    refused: dict[str, str]  # adapters, with why they cannot be served

    @property
    def busy(self) -> bool:
        """Whether anybody waits or runs."""

    def submit(self, job: wire.Job) -> None:
        """Queue a request."""

    def cancel(self, key: int, reason: FinishReason) -> None:
        """End a request before the next step."""

    def stream(self, key: int, every: int) -> None:
        """From now on tell a request's tokens in groups of so many."""

    def step(self) -> wire.Progress:
        """One forward pass at most. What it raises ends the process."""

    def stats(self) -> Stats:
        """What it is doing now."""


class WorkerGone(Exception):
    """The other end of the connection is closed."""


class Engine:
    """One loop, and the worker that it works for."""

    def __init__(self, worker: Connection, loop: Loop) -> None:
        self._worker = worker
        self._loop = loop
        self._taken = self._told = 0  # the highest keys
        self._stats_due = 0.0  # monotonic seconds
        self._closing = False

    def run(self) -> None:
        """Until the worker says Close; raises WorkerGone, and whatever a step raises."""
        progress = _NOTHING
        while True:
            self._take_in(wait=not self._loop.busy and _is_empty(progress))
            if self._closing:
                return
            # Before the step, too: what came in now may be what this process dies of.
            self._tell(progress)
            progress = self._loop.step() if self._loop.busy else _NOTHING

    def _take_in(self, *, wait: bool) -> None:
        while not self._closing and (wait or self._worker.poll(0)):
            self._handle(receive(self._worker))
            wait = False

    def _handle(self, message: object) -> None:
        match message:
            case wire.Submit(jobs):
                for job in jobs:
                    self._loop.submit(job)
                    self._taken = job.key
            case wire.Cancel(keys, reason):
                for key in keys:
                    self._loop.cancel(key, reason)
            case wire.Stream(key, every):
                self._loop.stream(key, every)
            case wire.Close():
                self._closing = True

    def _tell(self, progress: wire.Progress) -> None:
        stats_due = time.monotonic() >= self._stats_due or not self._loop.busy
        if _is_empty(progress) and not stats_due and self._taken == self._told:
            return
        stats = self._loop.stats() if stats_due else None
        if stats_due:
            self._stats_due = time.monotonic() + _STATS_SECONDS
        send(self._worker, replace(progress, stats=stats, taken=self._taken))
        self._told = self._taken


def _is_empty(progress: wire.Progress) -> bool:
    return not (len(progress.keys) or progress.ends)


def receive(worker: Connection) -> Any:
    """The next message; raises WorkerGone."""
    try:
        return worker.recv()
    except (EOFError, OSError) as error:
        raise WorkerGone from error


def send(worker: Connection, message: object) -> None:
    """Send a message; raises WorkerGone."""
    try:
        worker.send(message)
    except OSError as error:
        raise WorkerGone from error


def build(worker: Connection) -> Loop | None:
    """The loop that the worker wants, None after telling why there is none."""
    load = receive(worker)
    try:
        loop: Loop = pkgutil.resolve_name(load.factory)(**load.arguments)
    except ModelLoadFailed as error:
        failed = wire.Failed(error.message, native=not isinstance(error, UnknownArchitecture))
        send(worker, failed)
        return None
    except Exception as error:
        # The libraries raise what they like, and the worker must hear a reason.
        log.exception("engine_not_built")
        reason = f"The engine could not be built: {type(error).__name__}."
        send(worker, wire.Failed(gpu_failure(error) or reason))
        return None
    send(worker, wire.Ready(kv_tokens=loop.kv_tokens, refused=loop.refused))
    return loop


def main() -> None:
    """The arguments: the number of the connection's file, and the worker's process id."""
    # A Ctrl-C in a terminal reaches us as well; but how long we go on is for the worker to say.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    connection, parent = (int(each) for each in sys.argv[1:])
    _die_with(parent)
    # Whatever the worker has: what makes way for others may be the worker, but not the model.
    os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    logs.configure(config.current())
    worker = Connection(connection)
    try:
        serve(worker)
    except Exception as error:
        log.critical("engine_crashed", exc_info=True)
        sys.stdout.flush()
        with suppress(WorkerGone):
            # Of other errors without their words, which may quote a prompt.
            known = str(error) if isinstance(error, MemoryGone) else gpu_failure(error)
            send(worker, wire.Crashed(known or _CRASHED))
        # At once: after an error on a GPU, an orderly end can hang.
        os._exit(os.EX_SOFTWARE)


def serve(worker: Connection) -> None:
    """Build the loop and run it until the worker needs it no more."""
    try:
        loop = build(worker)
        if loop is not None:
            Engine(worker, loop).run()
    except WorkerGone:
        log.info("engine_ends", reason="its worker is gone")


def _die_with(worker: int) -> None:
    """Let the kernel kill us when the worker's thread that started us ends, also while a step hangs
    and we would not see that the connection is closed (prctl(2)).
    """
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != worker:  # it was gone before the call
        os._exit(0)


if __name__ == "__main__":
    main()
