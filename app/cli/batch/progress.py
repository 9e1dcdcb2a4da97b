"""What the user sees, on standard error: a bar in a terminal, a line now and then in a pipe."""

import threading
import time
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.text import Text

from app.cli.batch.output import Record, succeeded
from app.cli.batch.pace import Pace

PLAIN_SECONDS = 5.0
SAME_SECONDS = 30.0  # the same trouble is not told again earlier
FAILURES_SHOWN = 20


class Screen:
    """Shows a batch of ``total`` lines."""

    def __init__(self, console: Console, total: int) -> None:
        self._console = console
        self._total, self._done, self._failed = total, 0, 0
        self._shown_failures = 0
        self._pace = Pace(total)
        self._printed_at = time.monotonic()
        self._told: dict[str, float] = {}
        self._telling = threading.Lock()
        self._bar = Progress(
            BarColumn(bar_width=40),
            MofNCompleteColumn(),
            TextColumn("{task.fields[pace]}[red]{task.fields[failed]}"),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("", total=total, **self._fields())

    def __enter__(self) -> "Screen":
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def resume(self, *, done: int, failed: int) -> None:
        """Begin where an earlier run ended."""
        self._done, self._failed = done, failed
        self._pace = Pace(self._total - done)
        if done:
            self._say(f"Resuming: {done} of {self._total} lines are done.", "")
        self._bar.update(self._task, completed=done, **self._fields())

    def note(self, record: Record) -> None:
        """One more line of the output."""
        self._pace.note()
        self._done += 1
        if not succeeded(record):
            self._failed += 1
            self._show_failure(record)
        self._bar.update(self._task, completed=self._done, **self._fields())
        if not self._console.is_terminal:
            self._print_now_and_then()

    def tell(self, sentence: str) -> None:
        """Trouble that many threads may have at once: told once in a while."""
        with self._telling:
            now = time.monotonic()
            if now - self._told.get(sentence, -SAME_SECONDS) >= SAME_SECONDS:
                self._told[sentence] = now
                self._say(sentence, "yellow")

    def _show_failure(self, record: Record) -> None:
        self._shown_failures += 1
        if self._shown_failures <= FAILURES_SHOWN:
            self._say(f"line {record['line']}: {_reason(record)}", "red")
        if self._shown_failures == FAILURES_SHOWN:
            self._say("Further failures are only in the output.", "red")

    def _print_now_and_then(self) -> None:
        now = time.monotonic()
        if now - self._printed_at >= PLAIN_SECONDS:
            self._printed_at = now
            fields = self._fields()
            self._say(f"{self._done}/{self._total}, {fields['pace']}{fields['failed']}", "")

    def _fields(self) -> dict[str, Any]:
        return {
            "pace": self._pace.describe() if self._done < self._total else "done",
            "failed": f", {self._failed} failed" if self._failed else "",
        }

    def _say(self, sentence: str, style: str) -> None:
        self._console.print(Text(sentence, style), soft_wrap=True)


def _reason(record: Record) -> str:
    if "error" in record:
        return str(record["error"]["message"])
    job = record["job"]
    return f"{job['status']}: {(job.get('error') or {}).get('message', 'job ' + job['id'])}"
