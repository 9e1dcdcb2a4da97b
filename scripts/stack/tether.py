"""Become another program that dies with its parent, as an unprivileged user if asked.

Run by path, not imported: ``python tether.py PARENT SIGNAL USER COMMAND...``. The kernel sends the
signal when the parent is gone, however it went (also by SIGKILL); without this, servers would
outlive a killed ``scripts/up`` or test run. The process keeps its id through the final exec.
"""

import ctypes
import os
import sys

PR_SET_PDEATHSIG = 1


def drop_to(user: int) -> None:
    """Give up root for good."""
    os.setgroups([])
    os.setgid(user)
    os.setuid(user)


def tie_to(parent: int, signal_number: int) -> None:
    """Ask Linux for the signal; elsewhere a killed parent leaves its children to scripts/down."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal_number)
    if os.getppid() != parent:
        sys.exit("the parent is gone already")


def give_way() -> None:
    """Wake up without interrupting whoever computes, on Linux: the engine's process, which shares
    the cores with all of these and whose threads wait for one another, takes this back for itself.
    """
    if sys.platform == "linux":
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


def main(parent: str, signal_number: str, user: str, *command: str) -> None:
    """Change user first: the kernel forgets the tie when the user changes."""
    if user:
        drop_to(int(user))
    tie_to(int(parent), int(signal_number))
    give_way()
    try:
        os.execvp(command[0], command)
    except OSError as error:
        sys.exit(f"{command[0]}: {error.strerror}")


if __name__ == "__main__":
    main(*sys.argv[1:])
