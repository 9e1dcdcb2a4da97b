"""One part on the stage: it can be killed, frozen and started again."""

import os
import signal
import subprocess
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from scripts.stack import processes
from scripts.stack.interrupts import Interrupts
from scripts.stack.problem import Problem
from scripts.stack.processes import Command
from scripts.stack.state import ROOT
from scripts.stack.supervisor import Part, describe

STOP_SECONDS = 20
POLL_SECONDS = 0.05


class Actor:
    """A part, its process when it runs, and its log over all of its lives."""

    def __init__(
        self, part: Part, *, folder: Path, environment: Mapping[str, str], interrupts: Interrupts
    ) -> None:
        self.part = part
        self.name = part.name
        self.log = folder / f"{part.name}.log"
        self._environment = environment
        self._interrupts = interrupts
        self._command: Command | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self.frozen = False

    def start(self) -> None:
        """Start it, or start it again."""
        command = self.part.command()
        environment = {**command.environment, **self._environment}
        self._command = replace(command, environment=environment)
        with self._interrupts.held(), self.log.open("ab") as output:
            self._process = processes.start(self._command, output, cwd=ROOT)

    def wait_until_ready(self) -> None:
        """Raises Problem when it ends or takes too long."""
        deadline = time.monotonic() + self.part.ready_seconds
        while not self.part.ready():
            if not self.alive or time.monotonic() > deadline:
                raise Problem(f"{self.name} did not start:\n{self.log.read_text()}")
            time.sleep(POLL_SECONDS)

    @property
    def alive(self) -> bool:
        """Whether its process runs, frozen or not."""
        return self._process is not None and not processes.ended(self._process)

    def kill(self) -> None:
        """End it as a crash would."""
        if self._process is not None and self.alive:
            processes.kill_group(self._process.pid)
            self._process.wait()
        self._process, self.frozen = None, False

    def stop(self, how: signal.Signals | None = None) -> None:
        """Ask it to stop, in its own way or by this signal, and wait."""
        if self._process is not None and self._command is not None:
            command = replace(self._command, stop_signal=how) if how else self._command
            processes.stop(self._process, command, STOP_SECONDS)
        self._process = None

    def freeze(self) -> None:
        """Stop its clock."""
        if self._process is not None and self.alive:
            os.killpg(self._process.pid, signal.SIGSTOP)
            self.frozen = True

    def thaw(self) -> None:
        """Let it go on, unaware."""
        if self._process is not None and self.alive:
            os.killpg(self._process.pid, signal.SIGCONT)
        self.frozen = False

    def obituary(self) -> str | None:
        """How it ended, if it did so without our doing; then it no longer counts as started."""
        if self._process is None or not processes.ended(self._process):
            return None
        how = describe(self._process.returncode)
        self._process = None
        return f"{self.name} ended by itself ({how})"
