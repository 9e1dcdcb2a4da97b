"""Large models on a CUDA device: random weights in the shape of real ones.

One contestant after the other, since each fills the device's memory with keys and values.
"""

import argparse
import random
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from scripts.benching.engine import weights
from scripts.benching.engine.contest import started
from scripts.benching.engine.entries import Make, continuous, static
from scripts.benching.engine.host import Host
from scripts.benching.engine.product import Product
from scripts.benching.engine.shapes import SHAPES
from scripts.benching.engine.work import Failed, Work
from scripts.benching.figures import Figure, higher_is_better
from scripts.benching.notes import Notes

DEVICE = "cuda"
OURS = "native"
BATCHES = (1, 64, 256, 512)
# A request's context grows from its prompt on; this is the mean over its new tokens.
CONTEXT = 500
NEW_TOKENS = 128
PROMPT_TOKENS = CONTEXT - NEW_TOKENS // 2

Rates = dict[int, list[float]]  # batch -> tokens per second, a value for each round


def run(options: argparse.Namespace, notes: Notes) -> list[Figure]:
    """Each shape in both kinds of weights; exits with 2 where there is no device."""
    if not torch.cuda.is_available():
        notes.say("✗ There is no CUDA device here, so --gpu has nothing to measure.")
        sys.exit(2)
    return [
        figure
        for name in SHAPES
        for kind in ("gptq", "bf16")
        for figure in one_model(name, kind, options=options, notes=notes)
    ]


def one_model(name: str, kind: str, *, options: argparse.Namespace, notes: Notes) -> list[Figure]:
    """All contestants with one checkpoint."""
    shape, quantized = SHAPES[name], kind == "gptq"
    ours = options.engine or OURS
    with tempfile.TemporaryDirectory(prefix="gptqueue-bench-") as scratch:
        with notes.doing(f"making the checkpoint {name} {kind}"):
            folder = weights.make(Path(scratch) / "model", shape, quantized=quantized)
        rates = {
            side: decoding(make, Numbers(shape.vocab_size, options.rounds), side, notes=notes)
            for side, make in contestants(ours, folder).items()
        }
    roofline = partial(shape.roofline, context=CONTEXT, quantized=quantized)
    return figures(f"gpu_{name}_{kind}", rates, lambda batch: roofline(batch=batch))


def contestants(ours: str, folder: Path) -> dict[str, Make]:
    """Our engine, ``generate`` and transformers' continuous batching."""
    return {
        "ours": partial(Product, ours, folder=folder, slots=max(BATCHES), device=DEVICE),
        "generate": partial(static, folder, DEVICE),
        "continuous": partial(continuous, folder, DEVICE),
    }


class Numbers:
    """Prompts of PROMPT_TOKENS random tokens, for checkpoints of ``weights``."""

    def __init__(self, vocabulary: int, rounds: int) -> None:
        self.rounds = rounds
        self._vocabulary = vocabulary
        self._random = random.Random(0)

    def work(self, batch: int, tokens: int) -> Work:
        """So many at once, none like one before."""
        return Work(
            prompts=[self._prompt() for _ in range(batch)],
            tokens=tokens,
            arrivals=[0.0] * batch,
            in_flight=batch,
        )

    def _prompt(self) -> str:
        words = self._random.choices(range(self._vocabulary), k=PROMPT_TOKENS)
        return " ".join(map(str, words))


def decoding(make: Make, numbers: Numbers, side: str, *, notes: Notes) -> Rates:
    """What one contestant reaches; ``generate`` takes one request at a time."""
    rates: Rates = {}
    try:
        with started({side: make}, ours="", notes=notes) as hosts:
            for batch in BATCHES[:1] if side == "generate" else BATCHES:
                for host in hosts:
                    rates[batch] = rounds(host, numbers, batch)
                    notes.say(f"{side}, {batch} at once: {max(rates[batch]):,.0f} tokens/s")
    except Failed as error:
        notes.say(f"{side} is out: {error}")
    return rates


def rounds(host: Host, numbers: Numbers, batch: int) -> list[float]:
    """Tokens per second of each round, the first, which compiles and captures, left out."""
    return [decode_rate(host, numbers, batch) for _ in range(numbers.rounds + 1)][1:]


def decode_rate(host: Host, numbers: Numbers, batch: int) -> float:
    """Without the prompts: what NEW_TOKENS more cost than a first token alone."""
    first = max(answer.ended for answer in host.ask(numbers.work(batch, 1)))
    everything = max(answer.ended for answer in host.ask(numbers.work(batch, NEW_TOKENS + 1)))
    return batch * NEW_TOKENS / (everything - first)


def figures(prefix: str, rates: dict[str, Rates], roofline: Callable[[int], float]) -> list[Figure]:
    """Ours beside the roofline (the ratio is the fraction of it), ``generate`` and continuous."""
    found = []
    for batch, values in rates["ours"].items():
        beside = {
            "": [roofline(batch)],
            "_generate": rates["generate"].get(1),
            "_continuous": rates["continuous"].get(batch),
        }
        found += [
            higher_is_better(
                f"{prefix}_{batch}{name}", "tokens/s", values=values, baselines=baselines
            )
            for name, baselines in beside.items()
            if baselines
        ]
    return found
