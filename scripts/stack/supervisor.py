"""Starts parts in order, waits until each is ready, restarts what dies, stops all in reverse."""

import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from scripts.stack import pidfiles, processes
from scripts.stack.interrupts import Interrupts
from scripts.stack.journal import Journal
from scripts.stack.problem import Problem
from scripts.stack.processes import Command
from scripts.stack.screen import Screen

POLL_SECONDS = 0.1


@dataclass(frozen=True, kw_only=True)
class Part:
    """One program of the stack. ``command`` is asked anew before every start.

    It has ``ready_seconds`` to get ready, counted from the last moment that it was ``busy``.
    """

    name: str
    command: Callable[[], Command]
    ready: Callable[[], bool]
    busy: Callable[[], bool] = lambda: False
    ready_seconds: float = 60
    grace_seconds: float = 15


@dataclass(frozen=True, kw_only=True)
class Backoff:
    """How long a part that died is left alone: doubling, until it has lived a while."""

    first_seconds: float = 1
    most_seconds: float = 30
    healthy_after_seconds: float = 60

    def delay(self, failures: int) -> float:
        """The wait after that many deaths in a row."""
        return min(self.most_seconds, self.first_seconds * 2.0 ** min(failures - 1, 30))


@dataclass
class Member:
    """A part that was started, and how it fared."""

    part: Part
    command: Command
    process: subprocess.Popen[bytes]
    started: float
    failures: int = 0
    restart_at: float | None = None


class Supervisor:
    """Owns every process it starts, and no other."""

    def __init__(
        self,
        *,
        run: Path,
        cwd: Path,
        journal: Journal,
        screen: Screen,
        interrupts: Interrupts,
        backoff: Backoff,
    ) -> None:
        self._run = run
        self._cwd = cwd
        self._journal = journal
        self._screen = screen
        self._interrupts = interrupts
        self._backoff = backoff
        self._members: list[Member] = []

    def start(self, *parts: Part) -> None:
        """Start these together and wait until all are ready; raises Problem when one is not."""
        fresh = []
        for part in parts:
            with self._interrupts.held():
                fresh.append(Member(part, *self._spawn(part), started=time.monotonic()))
                self._members.append(fresh[-1])
        for member in fresh:
            with self._screen.step(f"Starting {member.part.name}", f"{member.part.name} is ready"):
                self._await_ready(member)

    def finish(self, name: str, command: Command) -> None:
        """Run a command to its end; raises Problem when it fails."""
        task = Part(name=name, command=lambda: command, ready=lambda: True)
        with self._interrupts.held():
            member = Member(task, *self._spawn(task), started=time.monotonic())
            self._members.append(member)
        while not processes.ended(member.process):
            time.sleep(POLL_SECONDS)
        self._members.remove(member)
        self._forget(member)
        if member.process.returncode:
            raise Problem(self._obituary(member, "failed"))

    def tend(self) -> None:
        """One round: note who died, restart those whose wait is over."""
        for member in self._members:
            if member.restart_at is not None:
                if time.monotonic() >= member.restart_at:
                    self._restart(member)
            elif processes.ended(member.process):
                self._schedule_restart(member)

    @property
    def busy(self) -> bool:
        """Whether anything was started."""
        return bool(self._members)

    def stop(self) -> None:
        """Stop everything that was started, the last first."""
        while self._members:
            member = self._members[-1]
            with self._screen.step(
                f"Stopping {member.part.name}", f"{member.part.name} has stopped"
            ):
                processes.stop(member.process, member.command, member.part.grace_seconds)
            self._forget(member)
            self._members.pop()

    def _spawn(self, part: Part) -> tuple[Command, subprocess.Popen[bytes]]:
        command = part.command()
        process = processes.start(command, subprocess.PIPE, cwd=self._cwd)
        pidfiles.write(self._run, part.name, process.pid)
        assert process.stdout is not None
        self._journal.follow(part.name, process.stdout)
        return command, process

    def _await_ready(self, member: Member) -> None:
        deadline = member.started + member.part.ready_seconds
        while not member.part.ready():
            self._check_all_live()
            if member.part.busy():
                deadline = time.monotonic() + member.part.ready_seconds
            if time.monotonic() > deadline:
                raise Problem(self._obituary(member, "did not get ready in time"))
            time.sleep(POLL_SECONDS)
        self._check_all_live()

    def _check_all_live(self) -> None:
        for member in self._members:
            if processes.ended(member.process):
                how = f"stopped while starting ({describe(member.process.returncode)})"
                raise Problem(self._obituary(member, how))

    def _schedule_restart(self, member: Member) -> None:
        self._forget(member)
        lived = time.monotonic() - member.started
        healthy = lived >= self._backoff.healthy_after_seconds
        member.failures = 1 if healthy else member.failures + 1
        delay = self._backoff.delay(member.failures)
        member.restart_at = time.monotonic() + delay
        how = describe(member.process.returncode)
        self._note(member, f"stopped unexpectedly ({how}); restarting in {delay:g} s")

    def _restart(self, member: Member) -> None:
        with self._interrupts.held():
            member.command, member.process = self._spawn(member.part)
            member.started, member.restart_at = time.monotonic(), None
        self._note(member, f"restarted as process {member.process.pid}")

    def _note(self, member: Member, sentence: str) -> None:
        self._journal.write("up", f"{member.part.name} {sentence}")

    def _forget(self, member: Member) -> None:
        (self._run / f"{member.part.name}.pid").unlink(missing_ok=True)

    def _obituary(self, member: Member, how: str) -> str:
        name = member.part.name
        return (
            f"{name} {how}. Its log, {self._journal.path(name)}, ends:\n{self._journal.tail(name)}"
        )


def describe(returncode: int) -> str:
    """How a process ended."""
    return f"exit code {returncode}" if returncode >= 0 else f"killed by signal {-returncode}"
