"""What a worker asks of an engine, and what an engine answers.

An engine decodes many requests together: each joins and leaves between two steps. A worker's
threads only wait on the futures; only an engine may import torch.
"""

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol


class FinishReason(StrEnum):
    """Why a generation ended."""

    STOP = "stop"  # end-of-text token or one of the stop strings
    LENGTH = "length"  # max_tokens, or the model's context, is used up
    CANCELLED = "cancelled"  # Engine.cancel; the text so far is kept
    DEADLINE = "deadline"  # Request.deadline passed; the text so far is kept


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a chat; ``role`` is system, user or assistant."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is chosen.

    ``temperature`` 0 is greedy; ``top_p`` in (0, 1]; ``top_k`` 0 means all tokens; ``seed`` None
    means a fresh random one; ``stop`` strings are matched on text, across token borders, and the
    text ends before the first of them; ``repetition_penalty`` divides the logits of tokens that
    occurred (CTRL, Keskar et al. 2019), 1.0 is off.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    repetition_penalty: float = 1.0


@dataclass(frozen=True, slots=True)
class Request:
    """One generation: exactly one of ``prompt`` (verbatim) and ``messages`` (chat template).

    ``id`` is unique among the requests in flight. ``max_tokens`` counts completion tokens.
    ``deadline`` is a ``time.monotonic()`` instant in seconds, None for never.
    """

    id: str
    max_tokens: int
    prompt: str | None = None
    messages: Sequence[Message] | None = None
    sampling: Sampling = field(default_factory=Sampling)
    deadline: float | None = None


@dataclass(frozen=True, slots=True)
class Generation:
    """What became of a request; token counts are what the customer pays for.

    ``completion_tokens`` counts every token that was sampled and belongs to the answer, the
    end-of-text token excluded.
    """

    text: str
    finish_reason: FinishReason
    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True, slots=True)
class Stats:
    """A snapshot: ``running`` requests are being decoded, ``waiting`` ones have no slot yet."""

    running: int
    waiting: int
    steps: int  # forward passes since start
    generated_tokens: int  # since start, all requests


class Engine(Protocol):
    """A loaded model. Every method may be called from any thread."""

    slots: int

    def submit(self, request: Request) -> "Future[Generation]":
        """Queue a request; returns at once.

        The future ends with a Generation (also when cancelled or past its deadline), or raises
        ContextLengthExceeded, InvalidRequest (the chat template refuses it), EngineFailed or
        EngineClosed (all in app.errors). One request's failure fails no other.
        """

    def cancel(self, request_id: str) -> None:
        """End a request between two steps; unknown or finished ids are ignored."""

    def stats(self) -> Stats:
        """What the engine is doing now."""

    def close(self) -> None:
        """Stop; requests in flight raise EngineClosed."""
