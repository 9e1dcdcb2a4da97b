"""What the user sees while a benchmark runs; on standard error, so that figures stay alone."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console


class Notes:
    """Prints as it goes."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False)

    def say(self, sentence: str) -> None:
        """One line."""
        self._console.print(sentence, style="dim", markup=False, soft_wrap=True)

    @contextmanager
    def doing(self, what: str) -> Iterator[None]:
        """A spinner in a terminal."""
        with self._console.status(what):
            yield
