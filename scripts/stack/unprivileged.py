"""PostgreSQL refuses to run as root; then it runs as a user that owns nothing else.

As a normal user none of this changes anything.
"""

import hashlib
import os
import pwd
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path

from scripts.stack.problem import Problem


@cache
def user() -> int | None:
    """The user, when we are root; it must be on the list of users, or initdb refuses."""
    if os.geteuid() != 0:
        return None
    for name in ("nobody", "daemon"):
        with suppress(KeyError):
            return pwd.getpwnam(name).pw_uid
    raise Problem("PostgreSQL does not run as root, nor is there a user nobody: be a normal user.")


def run(argv: Sequence[str | Path], stdin: str = "") -> subprocess.CompletedProcess[str]:
    """Run something as that user, to its end."""
    owner = user()
    return subprocess.run(
        argv,
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
        cwd="/",
        env={"LC_ALL": "C", "PATH": os.environ.get("PATH", os.defpath)},
        user=owner,
        group=owner,
        extra_groups=None if owner is None else [],
    )


def give(*paths: Path) -> None:
    """Make that user the owner."""
    owner = user()
    if owner is not None:
        for path in paths:
            os.chown(path, owner, owner)


def reaches(path: Path) -> bool:
    """Whether that user can enter this folder or run this program."""
    return run(["/bin/sh", "-c", 'test -x "$0"', path]).returncode == 0


def home(wanted: Path) -> Path:
    """This folder, or one that the user can get at, to which this becomes a link.

    A clone in root's own home is closed to everyone else, and is not ours to open.
    """
    elsewhere = Path("/var/lib") / f"gptqueue-{hashlib.sha256(bytes(wanted)).hexdigest()[:12]}"
    if wanted.is_symlink():  # perhaps copied along with the clone it belongs to
        wanted.unlink()
    wanted.mkdir(parents=True, exist_ok=True)
    if reaches(wanted):
        return wanted
    if any(wanted.iterdir()):
        raise Problem(
            f"{wanted} is closed to the user that runs PostgreSQL: chmod o+x its parents."
        )
    elsewhere.mkdir(mode=0o711, exist_ok=True)
    wanted.rmdir()
    wanted.symlink_to(elsewhere)
    return elsewhere
