"""The output: exactly one JSON line for every line of the input, in the order of their ends.

``{"line", "custom_id", "job"}``, or ``{"line", "custom_id", "error"}`` when there is no job.
"""

import errno
import fcntl
import json
import os
import secrets
from pathlib import Path
from typing import Any

from app.cli.problem import Problem

Record = dict[str, Any]


def succeeded(record: Record) -> bool:
    """Whether the line's job did what it was asked to."""
    return bool(record.get("job", {}).get("status") == "succeeded")


class Output:
    """The file and, beside it, the state that makes it resumable; one process at a time."""

    def __init__(self, path: Path) -> None:
        """Open it, or make it; raises Problem when another process is writing it."""
        self.path = path
        self.state = path.with_name(path.name + ".state")
        self.done: set[int] = set()
        self.succeeded = 0
        if path.exists() and not path.is_file():
            raise Problem(f"{path} is not a file.")
        try:
            # Unbuffered: a line is in the file when append returns.
            self._file = path.open("a+b", buffering=0)
        except OSError as error:
            raise Problem(f"{path} cannot be written: {error.strerror}.") from None
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Problem(f"Another process is writing {path}.") from None

    def resume(self, input_sha256: str) -> str:
        """The batch's id, new or that of the run before; notes the lines that are done.

        Raises Problem when the file belongs to another input, or to something else altogether.
        """
        if not self.state.exists():
            if self.path.stat().st_size:
                raise Problem(
                    f"{self.path} exists and no earlier run made it; choose another name."
                )
            return self._begin(input_sha256)
        state = self._read_state()
        if state["input_sha256"] != input_sha256:
            raise Problem(
                f"{self.path} holds the results of another input, or the input was changed since; "
                f"choose another output, or remove it and {self.state.name} to start anew."
            )
        self._read_done()
        return str(state["batch"])

    def append(self, record: Record) -> None:
        """Write one line."""
        line = json.dumps(record).encode() + b"\n"
        if self._file.write(line) != len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
        self._note(record)

    def close(self) -> None:
        """Let others have it."""
        self._file.close()

    def _begin(self, input_sha256: str) -> str:
        batch = secrets.token_hex(16)
        fresh = self.state.with_name(self.state.name + ".new")
        with fresh.open("w") as file:
            json.dump({"batch": batch, "input_sha256": input_sha256}, file)
            file.flush()
            os.fsync(file.fileno())  # if the id were lost, its jobs would be paid for again
        fresh.rename(self.state)
        return batch

    def _read_state(self) -> dict[str, str]:
        try:
            state = json.loads(self.state.read_text())
            return {name: state[name] for name in ("batch", "input_sha256")}
        except (ValueError, KeyError, TypeError):
            raise Problem(f"{self.state} is damaged; remove it and {self.path.name}.") from None

    def _read_done(self) -> None:
        """Note what is there; a line that a kill left half-written is cut off."""
        end = 0
        with self.path.open("rb") as file:
            for raw in file:
                if not raw.endswith(b"\n"):
                    break
                try:
                    self._note(json.loads(raw))
                except (ValueError, KeyError, TypeError, AttributeError):
                    raise Problem(f"{self.path} was changed: {raw[:40]!r} is no result.") from None
                end += len(raw)
        self._file.truncate(end)

    def _note(self, record: Record) -> None:
        self.done.add(record["line"])
        self.succeeded += succeeded(record)
