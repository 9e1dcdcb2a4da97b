"""What the user sees: steps with a tick, then one coloured stream of logs; plain in a pipe."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from itertools import cycle

from rich.console import Console, RenderableType
from rich.text import Text

COLOURS = ("cyan", "green", "magenta", "yellow", "blue", "bright_cyan", "bright_magenta")


class Screen:
    """Prints to standard output."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(highlight=False)
        self._palette = cycle(COLOURS)
        self._colours: dict[str, str] = {}
        self._width = 0

    def say(self, renderable: RenderableType = "", style: str | None = None) -> None:
        """Print something as it is; text is not folded, so that it can be copied."""
        self.console.print(renderable, style=style, markup=False, soft_wrap=True)

    @contextmanager
    def step(self, doing: str, done: str) -> Iterator[None]:
        """A spinner while the block runs; a tick and the time it took afterwards."""
        started = time.monotonic()
        with self.console.status(Text(doing)):
            yield
        seconds = f" {time.monotonic() - started:.1f} s"
        self.console.print(Text("✓ ", "green") + Text(done) + Text(seconds, "dim"), soft_wrap=True)

    def log(self, part: str, text: str) -> None:
        """One line of one part."""
        self._width = max(self._width, len(part))
        colour = self._colours.setdefault(part, next(self._palette))
        self.console.print(
            Text(f"{datetime.now():%H:%M:%S} ", "dim")
            + Text(f"{part:<{self._width}} | ", colour)
            + Text(text),
            soft_wrap=True,
        )

    def fail(self, sentence: str) -> None:
        """Why we give up."""
        self.console.print(Text("✗ ", "bold red") + Text(sentence), soft_wrap=True)
