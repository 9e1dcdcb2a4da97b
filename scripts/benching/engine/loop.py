"""What the engine's loop costs by itself: steps with a model that does nothing.

512 requests decode together, all of them streaming. What a step takes is then scheduling, the
choice of tokens, and telling the worker's process.
"""

import time
from collections.abc import Iterator
from multiprocessing.reduction import ForkingPickler
from typing import Any

import numpy as np

from workers.engines.base import Sampling
from workers.engines.native.wire import Job

REQUESTS = 512
PROMPT_TOKENS = 64
CONTEXT_LENGTH = 2048
# Before anything is measured: all prompts are computed, and everything has run once.
FIRST_STEPS = 300
STEPS = 500
# As the native engine asks for a request that streams.
TOKENS_TOLD_TOGETHER = 8
# Of transformers 5.23's continuous batching, measured before and not in this run.
CONTINUOUS_MS = 9.7


def step_milliseconds() -> float:
    """One step of the loop, the mean of many, with what it has to say made ready to be sent."""
    loop = idle_loop()
    for job in jobs():
        loop.submit(job)
    for _ in range(FIRST_STEPS):
        ForkingPickler.dumps(loop.step())
    started = time.perf_counter()
    for _ in range(STEPS):
        ForkingPickler.dumps(loop.step())
    return (time.perf_counter() - started) / STEPS * 1000


def idle_loop() -> Any:
    """The native engine's loop around a model that does nothing."""
    # They bring torch.
    from workers.engines.native.loop import Loop
    from workers.engines.native.runner import IdleRunner

    size = 16
    return Loop(
        IdleRunner(block_count=REQUESTS * CONTEXT_LENGTH // size, block_size=size),
        slots=REQUESTS,
        context_length=CONTEXT_LENGTH,
        budget=REQUESTS,
        end_tokens=frozenset(),
    )


def jobs() -> Iterator[Job]:
    """Requests that go on to the end of their context; no two prompts begin alike."""
    chance = np.random.default_rng(0)
    for key in range(REQUESTS):
        yield Job(
            key=key,
            prompt=chance.integers(0, 2**31, PROMPT_TOKENS, dtype=np.int32),
            limit=CONTEXT_LENGTH - PROMPT_TOKENS,
            sampling=Sampling(temperature=0),
            every=TOKENS_TOLD_TOGETHER,
        )
