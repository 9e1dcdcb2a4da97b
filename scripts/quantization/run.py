"""The steps of a quantization, and the figures at the end."""

import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from app.catalog import Version
from app.errors import ModelLoadFailed
from scripts.quantization import passages, source
from scripts.quantization.errors import Refused
from scripts.quantization.gptq import Grid, quantize
from scripts.quantization.perplexity import perplexity
from scripts.quantization.progress import Step, steps
from workers.engines.transformers import loading


@dataclass(frozen=True)
class Figures:
    """What a model weighs, in bytes, and how well it predicts held-out text."""

    size: int
    perplexity: float


def run(*, model: str, dest: Path, grid: Grid, calibration: Path | None) -> None:
    """Quantize ``model`` into the new folder ``dest`` and print the figures; raises Refused."""
    texts = passages.calibration(calibration)
    started = time.monotonic()
    with steps() as step:
        unquantized = dest / "unquantized"
        before, layers = _unpack(model, unquantized, grid, step)
        quantize(
            source=unquantized,
            dest=dest,
            grid=grid,
            passages=texts,
            advance=step("quantizing", layers),
        )
        shutil.rmtree(unquantized)
        after = _measure(dest, step)
    _report(before, after, time.monotonic() - started)


def _unpack(model: str, folder: Path, grid: Grid, step: Step) -> tuple[Figures, int]:
    """Write the model where the quantizer reads it; its figures, and how many layers it has."""
    read = step("reading", 1)
    original = source.read(model)
    original.check_group_size(grid.group_size)
    read()
    figures = Figures(original.bytes_in_16_bit(), _perplexity(original, step, "before"))
    original.save(folder)
    return figures, original.model.config.get_text_config().num_hidden_layers


def _measure(dest: Path, step: Step) -> Figures:
    """The figures of the result, as a worker loads it."""
    version = Version(source=str(dest))
    try:
        quantized = source.Source(*loading.load(version, models_dir=Path(), device="auto"))
    except ModelLoadFailed as error:
        raise Refused(f"The quantized model does not load: {error}") from error
    size = sum(file.stat().st_size for file in dest.glob("*.safetensors"))
    return Figures(size, _perplexity(quantized, step, "after"))


def _perplexity(loaded: source.Source, step: Step, when: str) -> float:
    texts = passages.held_out()
    advance = step(f"perplexity {when}", len(texts))
    return perplexity(loaded.model, loaded.tokenizer, passages=texts, advance=advance)


def _report(before: Figures, after: Figures, seconds: float) -> None:
    rise = after.perplexity / before.perplexity - 1
    print(f"size        {before.size / 1e6:.0f} MB in 16 bit, now {after.size / 1e6:.0f} MB")
    print(
        f"perplexity  {before.perplexity:.2f}, now {after.perplexity:.2f} ({rise:+.1%}) "
        "on held-out text"
    )
    print(f"time        {seconds:.0f} s")
