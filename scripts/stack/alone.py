"""At most one ``scripts/up`` works in a state folder."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager

from scripts.stack import pidfiles
from scripts.stack.problem import Problem
from scripts.stack.state import State


@contextmanager
def alone(state: State) -> Iterator[None]:
    """Hold the folder for the length of the block; raises Problem when another process does."""
    with (state.run / "up.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Problem(
                "GPTQueue is running from this folder already: stop it there with Ctrl-C, "
                "or with ./scripts/down."
            ) from None
        file = pidfiles.write(state.run, "up", os.getpid())
        try:
            yield
        finally:
            file.unlink(missing_ok=True)
