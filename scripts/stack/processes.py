"""Starting and stopping child processes, each in a process group of its own."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

TETHER = Path(__file__).with_name("tether.py")
POLL_SECONDS = 0.02
# A worker that is asked to stop ends the jobs in hand, or hands them back; killing it would cost
# each of them an attempt. This is more than the default of shutdown_grace_seconds (app/config.py).
WORKER_GRACE_SECONDS = 35


@dataclass(frozen=True)
class Command:
    """What to run, as whom, and how to ask it to stop."""

    argv: Sequence[str | Path]
    environment: Mapping[str, str] = field(default_factory=dict)
    user: int | None = None
    stop_signal: signal.Signals = signal.SIGTERM


def start(command: Command, output: int | IO[bytes], cwd: Path) -> subprocess.Popen[bytes]:
    """Start it in its own session, so that a Ctrl-C in the terminal reaches only us.

    Call this from the main thread: Linux ties a child to the thread that made it.
    """
    user = "" if command.user is None else str(command.user)
    signal_number = str(int(command.stop_signal))
    tether = [sys.executable, "-I", "-S", str(TETHER), str(os.getpid()), signal_number]
    return subprocess.Popen(
        [*tether, user, *command.argv],
        env={**os.environ, **command.environment},
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        cwd=cwd,
        start_new_session=True,
    )


def ended(process: subprocess.Popen[bytes]) -> bool:
    """Whether it is over; what is left of its group is then killed.

    The group goes first and the leader is reaped after, while its number cannot be anyone else's.
    """
    if process.returncode is not None:
        return True
    if os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        return False
    kill_group(process.pid)
    process.wait()
    return True


def stop(process: subprocess.Popen[bytes], command: Command, grace_seconds: float) -> None:
    """Ask it to stop; after the grace, kill the whole group that it leads."""
    if ended(process):
        return
    process.send_signal(command.stop_signal)
    deadline = time.monotonic() + grace_seconds
    while not ended(process):
        if time.monotonic() > deadline:
            kill_group(process.pid)
        time.sleep(POLL_SECONDS)


def kill_group(leader: int) -> None:
    """Kill what is left of the group of a process that ``start`` made."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGKILL)
