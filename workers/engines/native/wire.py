"""What the worker's process and the engine's process say to each other, and the loop to both.

Only token ids travel, in batches: text is made in the worker's process. A request is named by its
``key``, a number that is never used again in the life of an engine.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workers.engines.base import FinishReason, Sampling, Stats

Ids = NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Job:
    """One request, in token ids.

    ``prompt`` has the shape (prompt tokens,), at least one; ``limit`` is the most tokens to
    generate. ``deadline`` is a ``time.monotonic()`` instant in seconds, the same clock in both
    processes, or None. Tokens are told when ``every`` of them are new, or 50 ms after the last
    time; ``every`` 0 tells them all at the end. ``adapter`` is the number of one in the
    order in which the model was loaded with them, from 1; 0 is the model as it is.
    """

    key: int
    prompt: Ids
    limit: int
    sampling: Sampling
    deadline: float | None = None
    every: int = 0
    adapter: int = 0


@dataclass(frozen=True, slots=True)
class Load:
    """To the engine, first of all: what makes its loop.

    ``factory`` names a function that returns the loop, as ``package.module:function``;
    ``arguments`` are passed to it by keyword.
    """

    factory: str
    arguments: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Crashed:
    """From the engine, last of all: why it ends, a sentence for the operator."""

    reason: str


@dataclass(frozen=True, slots=True)
class Submit:
    """To the engine: take these on, in this order."""

    jobs: list[Job]


@dataclass(frozen=True, slots=True)
class Cancel:
    """To the engine: end these before the next step; unknown ones are ignored.

    ``reason`` CANCELLED is what the customer wanted; STOP a stop string in the text.
    """

    keys: list[int]
    reason: FinishReason = FinishReason.CANCELLED


@dataclass(frozen=True, slots=True)
class Stream:
    """To the engine: from now on tell the tokens of this one in groups of ``every``; an unknown one
    is ignored.
    """

    key: int
    every: int


@dataclass(frozen=True, slots=True)
class Close:
    """To the engine: stop now."""


@dataclass(frozen=True, slots=True)
class Ready:
    """From the engine: the model is loaded.

    ``kv_tokens`` is the most tokens, prompt and completion together, that one request can have;
    ``refused`` says of adapters by name why they cannot be served.
    """

    kv_tokens: int
    refused: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Failed:
    """From the engine: the model cannot be loaded, for this reason; ``native`` False means that
    another engine may know it.
    """

    message: str
    native: bool = True


@dataclass(frozen=True, slots=True)
class End:
    """A request is over. ``error`` None: with this reason. The end-of-text token is never told.

    ``prefilled`` says whether the prompt was computed at all: else its tokens are not charged.
    """

    key: int
    reason: FinishReason | None
    prefilled: bool
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Logprobs:
    """Of the tokens of one request in one message: natural logs, five likeliest first.

    Shapes: ``chosen`` (tokens,), ``top_ids`` and ``top`` (tokens, 5).
    """

    chosen: NDArray[np.float32]
    top_ids: NDArray[np.int32]
    top: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Progress:
    """From the engine, at most once per step: new tokens, and who is done.

    ``keys`` (groups,) names who has new tokens, ``counts`` (groups,) how many, ``tokens``
    (sum of counts,) which, group after group. ``ends`` come after their last tokens. ``taken`` is
    the highest key that the loop had before its next step: only those up to it can be what kills
    the process in that step.
    """

    keys: NDArray[np.int64]
    counts: NDArray[np.int32]
    tokens: Ids
    ends: list[End] = field(default_factory=list)
    logprobs: dict[int, Logprobs] = field(default_factory=dict)
    stats: Stats | None = None
    taken: int = 0
