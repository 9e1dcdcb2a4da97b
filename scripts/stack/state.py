"""The folder that holds everything the local stack writes: ``.local``, unless told otherwise."""

import os
import shlex
import shutil
from collections.abc import Mapping
from pathlib import Path

from scripts.stack.problem import Problem

ROOT = Path(__file__).resolve().parents[2]
# What we may remove again; a stranger's file in the folder stays.
ENTRIES = (
    "beat",
    "env",
    "env.new",
    "environment.lock",
    "flower",
    "log",
    "logs",
    "models",
    "postgres",
    "receiver.port",
    "run",
    "valkey",
)


class State:
    """Where things are in that folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = folder / "log"
        self.run = folder / "run"
        self.models = folder / "models"
        self.postgres = folder / "postgres"
        self.valkey = folder / "valkey"
        self.beat = folder / "beat"
        self.flower = folder / "flower"
        self.env = folder / "env"
        self.receiver_port = folder / "receiver.port"

    @classmethod
    def here(cls) -> "State":
        """The one this command works in."""
        return cls(Path(os.environ.get("GPTQUEUE_STATE_DIR") or ROOT / ".local").absolute())

    def create(self) -> None:
        """Make the folders that everything else expects; raises Problem when that fails."""
        for folder in (self.log, self.run, self.models, self.beat, self.flower):
            make_folder(folder, "GPTQUEUE_STATE_DIR")

    def wipe(self) -> None:
        """Remove what we put there, and the folder if nothing else is in it."""
        if self.postgres.is_symlink():  # see unprivileged.py
            shutil.rmtree(self.postgres.resolve(), ignore_errors=True)
        for entry in ENTRIES:
            path = self.folder / entry
            if path.is_symlink() or path.is_file():
                path.unlink()
            elif path.exists():
                shutil.rmtree(path)
        if self.folder.exists() and not any(self.folder.iterdir()):
            self.folder.rmdir()

    def read_env(self) -> dict[str, str]:
        """What ``write_env`` wrote the last time."""
        if not self.env.exists():
            return {}
        words = shlex.split(self.env.read_text(), comments=True)
        return dict(word.split("=", 1) for word in words if "=" in word)

    def write_env(self, values: Mapping[str, str]) -> None:
        """What another shell needs, to be sourced there; only for its owner's eyes."""
        lines = [f"export {name}={shlex.quote(value)}\n" for name, value in values.items()]
        fresh = self.env.with_suffix(".new")
        fresh.touch(mode=0o600)
        fresh.write_text("# Written by scripts/up: source it in another shell.\n" + "".join(lines))
        fresh.replace(self.env)


def make_folder(folder: Path, variable: str) -> None:
    """Make it with its parents, unless it is there; the Problem names the variable that sets it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Problem(
            f"The folder {folder} cannot be made: {error.strerror}. "
            f"{variable} can name another place."
        ) from error
