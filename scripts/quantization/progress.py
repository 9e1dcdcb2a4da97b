"""A progress bar for each step of a quantization, on standard error."""

import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

# Read when tqdm is imported: the GGUF reader asks nobody else before it draws.
os.environ.setdefault("TQDM_DISABLE", "1")

import transformers
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

# A step is opened with its name and number of parts, and told of each part that is done.
Step = Callable[[str, int], Callable[[], None]]


@contextmanager
def steps() -> Iterator[Step]:
    """Open steps; meanwhile the libraries, whose own bars would tear ours apart, are silent."""
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    logging.disable(logging.WARNING)
    columns = (
        TextColumn("{task.description:<18}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with warnings.catch_warnings(), Progress(*columns, console=Console(file=sys.stderr)) as bars:
        warnings.simplefilter("ignore")

        def step(name: str, parts: int) -> Callable[[], None]:
            task = bars.add_task(name, total=parts)
            return lambda: bars.advance(task)

        yield step
