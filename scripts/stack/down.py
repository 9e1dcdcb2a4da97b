"""``scripts/down``: stop what is left of ``scripts/up``; ``--wipe`` removes the state, too."""

import argparse
import signal
import sys
import time
from contextlib import suppress

import psutil

from scripts.stack import pidfiles, processes
from scripts.stack.problem import Problem
from scripts.stack.screen import Screen
from scripts.stack.state import State

UP_SECONDS = 180
# What the others need comes last.
LAST = ("valkey", "postgres")


def stop_up(state: State, screen: Screen) -> bool:
    """Ask a running scripts/up to stop everything, as Ctrl-C does; whether there was one."""
    process = pidfiles.living(state.run).get("up")
    if process is None:
        return False
    name = f"scripts/up (process {process.pid})"
    with screen.step(f"Stopping {name} and its parts", f"{name} and its parts have stopped"):
        process.terminate()
        if not await_end(process, UP_SECONDS):
            raise Problem(f"{name} does not stop")
    return True


def stop_parts(state: State, screen: Screen) -> bool:
    """Stop the parts that a killed scripts/up left behind; whether there were any."""
    found = pidfiles.living(state.run)
    found.pop("up", None)
    for name in sorted(found, key=lambda name: LAST.index(name) if name in LAST else -1):
        with screen.step(f"Stopping {name}", f"{name}, left behind by an earlier run, has stopped"):
            stop_part(name, found[name])
    for file in state.run.glob("*.pid"):
        if file.stem != "up":
            file.unlink()
    return bool(found)


def stop_part(name: str, process: psutil.Process) -> None:
    """Ask it to stop, then kill its group."""
    with suppress(psutil.NoSuchProcess):
        process.send_signal(signal.SIGINT if name == "postgres" else signal.SIGTERM)
        if not await_end(process, processes.WORKER_GRACE_SECONDS):
            processes.kill_group(process.pid)


def await_end(process: psutil.Process, seconds: float) -> bool:
    """Wait until it has ended, reaped by its parent or not; whether it did."""
    deadline = time.monotonic() + seconds
    while pidfiles.is_alive(process):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def run(screen: Screen, *, wipe: bool) -> None:
    """Stop, and wipe if asked."""
    state = State.here()
    stopped = [stop_up(state, screen), stop_parts(state, screen)]
    if not any(stopped):
        screen.say("Nothing was running.")
    if wipe:
        state.wipe()
        screen.say(f"{state.folder} is wiped.")


def main() -> int:
    """Parse, run, explain."""
    parser = argparse.ArgumentParser(prog="scripts/down", description=__doc__)
    parser.add_argument(
        "--wipe", action="store_true", help="remove .local: database, logs, every model in it"
    )
    options = parser.parse_args()
    screen = Screen()
    try:
        run(screen, wipe=options.wipe)
    except Problem as problem:
        screen.fail(str(problem))
        return 1
    except (psutil.AccessDenied, PermissionError) as error:
        screen.fail(f"{error}: was the stack started by another user?")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
