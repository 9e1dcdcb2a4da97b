"""Large models on a CUDA device: random weights in the shape of real ones.

One contestant after the other, since each fills the device's memory with keys and values. Ours
comes first with all models: when time is up, what lacks is what it is compared with.
"""

import argparse
import random
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path

import torch

from scripts.benching.engine import kernels, weights
from scripts.benching.engine.contest import started
from scripts.benching.engine.entries import Make, theirs
from scripts.benching.engine.host import Host
from scripts.benching.engine.product import Product
from scripts.benching.engine.shapes import SHAPES, Shape
from scripts.benching.engine.work import Failed, Work
from scripts.benching.figures import Figure, higher_is_better
from scripts.benching.notes import Notes

DEVICE = "cuda"
OURS = "native"
# The largest first: the others find their prompts among its.
BATCHES = (512, 256, 64, 1)
# ``generate``, before continuous batching changes the model's attention.
THEIR_BATCHES = (1, 512, 256, 64)
# A request's context grows from its prompt on; this is the mean over its new tokens.
CONTEXT = 500
NEW_TOKENS = 128
PROMPT_TOKENS = CONTEXT - NEW_TOKENS // 2
# Enough to compile and capture whatever a batch needs.
WARM_TOKENS = 4
# After so long nothing new begins: with what is under way it is less than ten minutes.
SECONDS = 500
ANSWER_SECONDS = 90

Rates = dict[int, list[float]]  # batch -> tokens per second, a value for each round


@dataclass
class Candidate:
    """A model in one kind of weights, and what was found of it."""

    shape: Shape
    name: str
    kind: str
    folder: Path
    ours: Rates = field(default_factory=dict)
    theirs: Rates = field(default_factory=dict)

    @property
    def quantized(self) -> bool:
        """Whether its layers are GPTQ's."""
        return self.kind == "gptq"

    @cached_property
    def numbers(self) -> "Numbers":
        """What is asked of it."""
        return Numbers(self.shape.vocab_size)


def run(options: argparse.Namespace, notes: Notes) -> list[Figure]:
    """Each shape in both kinds of weights; exits with 2 where there is no device."""
    if not torch.cuda.is_available():
        notes.say("✗ There is no CUDA device here, so --gpu has nothing to measure.")
        sys.exit(2)
    ends = time.monotonic() + SECONDS
    with (
        tempfile.TemporaryDirectory(prefix="gptqueue-bench-") as scratch,
        kernels.compiling() as compiling,
    ):
        candidates = [
            Candidate(SHAPES[name], name, kind, Path(scratch) / f"{name}-{kind}")
            # While the kernel of the quantized ones is compiled, the others are measured.
            for kind in ("bf16", "gptq")
            for name in SHAPES
        ]
        for each in candidates:
            if each.quantized:
                kernels.wait(compiling, notes)
            if made(each, notes):
                each.ours = decoding(
                    ours(options.engine or OURS, each.folder),
                    each.numbers,
                    name=f"ours, {each.name} {each.kind}",
                    batches=BATCHES,
                    rounds=options.rounds,
                    ends=ends,
                    notes=notes,
                )
        for each in candidates:
            if each.ours:
                each.theirs = decoding(
                    partial(theirs, each.folder, DEVICE),
                    each.numbers,
                    name=f"transformers, {each.name} {each.kind}",
                    batches=THEIR_BATCHES,
                    rounds=1,
                    ends=ends,
                    notes=notes,
                )
    return [figure for each in candidates for figure in figures(each)]


def made(candidate: Candidate, notes: Notes) -> bool:
    """Write its checkpoint; whether there was room for it."""
    try:
        with notes.doing(f"making the checkpoint {candidate.name} {candidate.kind}"):
            weights.make(candidate.folder, candidate.shape, quantized=candidate.quantized)
    except (OSError, RuntimeError) as error:
        notes.say(f"{candidate.name} {candidate.kind} is out: {error}")
        return False
    finally:
        torch.cuda.empty_cache()
    return True


def ours(engine: str, folder: Path) -> Make:
    """Our engine with a checkpoint."""
    return partial(Product, engine, folder=folder, slots=max(BATCHES), device=DEVICE)


class Numbers:
    """Prompts of PROMPT_TOKENS random tokens, for checkpoints of ``weights``.

    They are the same in every batch, so that who keeps keys and values computes them only once;
    what is measured is the decoding after them.
    """

    def __init__(self, vocabulary: int) -> None:
        numbers, words = random.Random(0), list(map(str, range(vocabulary)))
        self._prompts = [
            " ".join(numbers.choices(words, k=PROMPT_TOKENS)) for _ in range(max(BATCHES))
        ]

    def work(self, batch: int, tokens: int) -> Work:
        """So many at once."""
        return Work(
            prompts=self._prompts[:batch],
            tokens=tokens,
            arrivals=[0.0] * batch,
            in_flight=batch,
        )


def decoding(
    make: Make,
    numbers: Numbers,
    *,
    name: str,
    batches: Sequence[int],
    rounds: int,
    ends: float,
    notes: Notes,
) -> Rates:
    """What one contestant reaches until the time ``ends`` (monotonic seconds). It is started again
    behind a batch in which it fails.
    """
    rates: Rates = {}
    left = list(batches)
    while left and time.monotonic() < ends:
        try:
            with started({name: make}, ours="", notes=notes) as hosts:
                if not hosts:
                    return rates
                while left and time.monotonic() < ends:
                    batch = left.pop(0)
                    rates[batch] = decode_rates(hosts[0], numbers, batch, rounds=rounds)
                    notes.say(f"{name}, {batch} at once: {max(rates[batch]):,.0f} tokens/s")
        except Failed as error:
            notes.say(f"{name}, {batch} at once: {error}")
    if left:
        notes.say(f"{name}: no time is left for {left} at once")
    return rates


def decode_rates(host: Host, numbers: Numbers, batch: int, *, rounds: int) -> list[float]:
    """Tokens per second of each round, without the prompts: what NEW_TOKENS more cost than a first
    token alone.
    """

    def seconds(tokens: int) -> float:
        answers = host.ask(numbers.work(batch, tokens), seconds=ANSWER_SECONDS)
        return max(answer.ended for answer in answers)

    seconds(WARM_TOKENS)
    rates = []
    for _ in range(rounds):
        first = seconds(1)
        rates.append(batch * NEW_TOKENS / (seconds(NEW_TOKENS + 1) - first))
    return rates


def figures(candidate: Candidate) -> list[Figure]:
    """Ours beside the roofline (the ratio is the fraction of it), ``generate`` and continuous."""
    roofline: Callable[..., float] = partial(
        candidate.shape.roofline, context=CONTEXT, quantized=candidate.quantized
    )
    found = []
    for batch, values in sorted(candidate.ours.items()):
        beside = {
            "": [roofline(batch=batch)],
            "_generate": candidate.theirs.get(1),
            "_continuous": candidate.theirs.get(batch) if batch > 1 else None,
        }
        prefix = f"gpu_{candidate.name}_{candidate.kind}_{batch}"
        found += [
            higher_is_better(f"{prefix}{name}", "tokens/s", values=values, baselines=baselines)
            for name, baselines in beside.items()
            if baselines
        ]
    return found
