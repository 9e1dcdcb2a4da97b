"""What the tests of the native engine's loop share."""

import random
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from tests.integration import tiny
from workers.engines.base import FinishReason, Sampling
from workers.engines.native.building import assemble
from workers.engines.native.loop import Loop
from workers.engines.native.wire import End, Job, Progress

CONTEXT = 120
GREEDY = Sampling(temperature=0)


def loop(
    model: Any, *, slots: int = 6, blocks: int = 48, budget: int = 30, ahead: bool = False
) -> Loop:
    """A loop over a tiny model; ``blocks`` of 16 tokens, ``budget`` in tokens."""
    made = assemble(model, tiny.tokenizer(), context_length=CONTEXT, slots=slots, blocks=blocks)
    made._scheduler.budget = budget
    made._ahead = ahead
    return made


def build() -> Loop:
    """The factory of an engine's process with a tiny model."""
    return loop(tiny.llama())


def job(key: int, prompt: Iterable[int], limit: int = 20, **more: Any) -> Job:
    """A greedy request, unless ``sampling`` says otherwise."""
    more.setdefault("sampling", GREEDY)
    return Job(key=key, prompt=np.array(list(prompt), np.int32), limit=limit, **more)


def generated(model: Any, prompt: list[int], limit: int) -> list[int]:
    """The tokens that transformers itself generates, without the end-of-text token."""
    with torch.inference_mode():
        out = model.generate(
            torch.tensor([prompt]), max_new_tokens=limit, do_sample=False, pad_token_id=0
        )
    return [token for token in out[0, len(prompt) :].tolist() if token != 0]


def prompts(number: int, vocabulary: int, *, seed: int = 1) -> list[tuple[list[int], int]]:
    """Random prompts with their limits, of very different sizes."""
    chance = random.Random(seed)
    made = []
    for _ in range(number):
        size = chance.choice([1, 3, 15, 16, 17, 40, 90])
        ids = [chance.randrange(1, vocabulary) for _ in range(size)]
        made.append((ids, min(chance.choice([1, 5, 20, 40]), CONTEXT - size)))
    return made


@dataclass
class Heard:
    """What a loop has told."""

    tokens: dict[int, list[int]] = field(default_factory=dict)
    ends: dict[int, End] = field(default_factory=dict)

    def take(self, progress: Progress) -> None:
        """Note what a step told; nobody ends twice, nor is heard of afterwards."""
        at = 0
        for key, count in zip(progress.keys.tolist(), progress.counts.tolist(), strict=True):
            assert key not in self.ends
            self.tokens.setdefault(key, []).extend(progress.tokens[at : at + count].tolist())
            at += count
        assert at == len(progress.tokens)
        for end in progress.ends:
            assert end.key not in self.ends
            self.ends[end.key] = end

    def reasons(self) -> dict[int, FinishReason | None]:
        """Why each ended."""
        return {key: end.reason for key, end in self.ends.items()}


def run(made: Loop, jobs: Iterable[Job]) -> Heard:
    """Run these together until all are over."""
    for each in jobs:
        made.submit(each)
    heard = Heard()
    while made.busy:
        heard.take(made.step())
    return heard
