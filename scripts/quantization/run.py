"""The steps of a quantization, with a progress bar and the figures at the end."""

import argparse
import logging
import shutil
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import transformers
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from app.catalog import Version
from app.errors import ModelLoadFailed
from scripts.quantization import passages, source
from scripts.quantization.errors import Refused
from scripts.quantization.gptq import Grid, quantize
from scripts.quantization.perplexity import perplexity
from workers.engines.transformers import loading

Step = Callable[[str, int], Callable[[], None]]


def run(arguments: argparse.Namespace, dest: Path) -> None:
    """Quantize ``arguments.source`` into the new folder ``dest``; raises Refused."""
    if arguments.group_size < 16:
        raise Refused(f"The group size {arguments.group_size} is below 16.")
    calibration = passages.calibration(arguments.calibration)
    held_out = passages.held_out()
    started = time.monotonic()
    with _steps() as step:
        step("reading the source", 1)
        original = source.read(arguments.source)
        original.check_group_size(arguments.group_size)
        before = (
            original.bytes_in_16_bit(),
            perplexity(
                original.model,
                original.tokenizer,
                held_out,
                step("perplexity before", len(held_out)),
            ),
        )
        unquantized = dest / "unquantized"
        original.save(unquantized)
        layers = original.model.config.get_text_config().num_hidden_layers
        del original
        quantize(
            source=unquantized,
            dest=dest,
            grid=Grid(bits=arguments.bits, group_size=arguments.group_size),
            passages=calibration,
            advance=step("quantizing", layers),
        )
        shutil.rmtree(unquantized)
        after = _measured(dest, held_out, step)
    _report(before, after, time.monotonic() - started)


def _measured(
    dest: Path, held_out: list[str], step: Step
) -> tuple[int, float]:
    """Bytes of the checkpoint's weights, and its perplexity as a worker loads it."""
    try:
        model, tokenizer = loading.load(
            Version(source=str(dest)), models_dir=Path(), device="auto"
        )
    except ModelLoadFailed as error:
        raise Refused(f"The quantized model does not load: {error}") from error
    size = sum(file.stat().st_size for file in dest.glob("*.safetensors"))
    advance = step("perplexity after", len(held_out))
    return size, perplexity(model, tokenizer, held_out, advance)


@contextmanager
def _steps() -> Iterator[Step]:
    """A progress bar for each step, on standard error."""
    # The libraries' own bars and advice would tear it apart.
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    logging.disable(logging.WARNING)
    columns = (
        TextColumn("{task.description:<20}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with warnings.catch_warnings(), Progress(*columns, console=Console(file=sys.stderr)) as bars:
        warnings.simplefilter("ignore")

        def step(name: str, total: int) -> Callable[[], None]:
            task = bars.add_task(name, total=total)
            return lambda: bars.advance(task)

        yield step


def _report(before: tuple[int, float], after: tuple[int, float], seconds: float) -> None:
    rise = after[1] / before[1] - 1
    print(f"size        {before[0] / 1e6:8.1f} MB in 16 bit  -> {after[0] / 1e6:8.1f} MB")
    print(f"perplexity  {before[1]:8.2f}            -> {after[1]:8.2f} ({rise:+.1%}, held-out text)")
    print(f"took        {seconds:8.0f} s")
