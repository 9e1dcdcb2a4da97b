"""A progress bar for each step of a quantization, on standard error."""

import logging
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from workers.engines.transformers.quiet import be_quiet

# A step is opened with its name and number of parts, and told of each part that is done.
Step = Callable[[str, int], Callable[[], None]]


@contextmanager
def steps() -> Iterator[Step]:
    """Open steps; meanwhile the libraries, whose own bars would tear ours apart, are silent."""
    be_quiet()
    columns = (
        TextColumn("{task.description:<18}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    console = Console(file=sys.stderr)
    with _quiet_logs(), warnings.catch_warnings(), Progress(*columns, console=console) as bars:
        warnings.simplefilter("ignore")

        def step(name: str, parts: int) -> Callable[[], None]:
            task = bars.add_task(name, total=parts)
            return lambda: bars.advance(task)

        yield step


@contextmanager
def _quiet_logs() -> Iterator[None]:
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
