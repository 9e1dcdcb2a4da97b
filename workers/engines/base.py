"""What a worker asks of an engine, and what an engine answers.

An engine decodes many requests together: each joins and leaves between two steps. A worker's
threads only wait on the futures; only an engine may import torch.
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

import structlog

from app.errors import InvalidRequest

log = structlog.get_logger(__name__)

# A stream is told in groups: when so many tokens are new, or some are and so much time went by.
GROUP_TOKENS = 8
GROUP_SECONDS = 0.05
CANNOT_CONSTRAIN = "This model's engine cannot constrain its output."


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
    text ends before the first of them; ``stop_token_ids`` end it like the end-of-text token.
    ``min_p`` in [0, 1) drops tokens less likely than that share of the likeliest (Nguyen et al.
    2024). ``repetition_penalty`` divides the logits of tokens that occurred in prompt or answer
    (CTRL, Keskar et al. 2019), 1.0 is off; ``presence_penalty`` and ``frequency_penalty`` are taken
    off the logits of tokens of the answer, once and per occurrence (as OpenAI's API defines them),
    0.0 is off. ``logprobs`` asks for the log-probability of each chosen token and of the five
    likeliest, before temperature, penalties and cuts. ``json_schema`` is the text of a JSON Schema
    that the answer follows, None for free text.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int | None = None
    min_p: float = 0.0
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logprobs: bool = False
    json_schema: str | None = None

    def refuse_schema(self) -> None:
        """For engines that cannot follow one; raises InvalidRequest where there is one."""
        if self.json_schema is not None:
            raise InvalidRequest(CANNOT_CONSTRAIN)


@dataclass(frozen=True, slots=True)
class Request:
    """One generation: exactly one of ``prompt`` (verbatim) and ``messages`` (chat template).

    ``id`` is unique among the requests in flight. ``max_tokens`` counts completion tokens.
    ``deadline`` is a ``time.monotonic()`` instant in seconds, None for never. ``stream`` asks for
    the text as it grows, through the engine's publisher; ``Engine.stream`` does so later.
    ``adapter`` names an adapter of the model, None the model as it is.
    """

    id: str
    max_tokens: int
    prompt: str | None = None
    messages: Sequence[Message] | None = None
    sampling: Sampling = field(default_factory=Sampling)
    deadline: float | None = None
    stream: bool = False
    adapter: str | None = None


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """One token of an answer: its text, natural log-probability, and the five likeliest there."""

    token: str
    logprob: float
    top: tuple[tuple[str, float], ...]  # text and log-probability, the likeliest first


@dataclass(frozen=True, slots=True)
class Delta:
    """Text that a streaming request gained since the last one; whole characters only.

    The deltas of a request, joined, are the text of its Generation. ``tokens`` counts the
    completion tokens up to here.
    """

    request_id: str
    text: str
    tokens: int


# Called with the deltas of one step of all streaming requests, by one thread, in order.
Publisher = Callable[[Sequence[Delta]], None]


def nowhere(deltas: Sequence[Delta]) -> None:
    """The Publisher where nobody reads the text as it grows."""


def harmless(publish: Publisher) -> Publisher:
    """The same Publisher, which cannot stop an engine: what it raises is only logged, since whoever
    reads along reads the whole text in the end.
    """

    def tell(deltas: Sequence[Delta]) -> None:
        try:
            publish(deltas)
        except Exception:
            log.exception("engine.publish_failed", deltas=len(deltas))

    return tell


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
    logprobs: tuple[TokenLogprob, ...] | None = None


@dataclass(frozen=True, slots=True)
class Stats:
    """A snapshot: ``running`` requests are being decoded, ``waiting`` ones have no slot yet.

    What an engine does not know stays 0. Sums count from the engine's start.
    """

    running: int
    waiting: int
    steps: int  # forward passes
    generated_tokens: int  # completion tokens, all requests
    prefill_tokens: int = 0  # prompt tokens that were computed, again after a preemption
    preemptions: int = 0
    kv_used: int = 0  # tokens that the KV memory in use has room for
    kv_total: int = 0  # tokens that all KV memory has room for
    step_seconds: float = 0.0  # spent in forward passes, sum
    queue_seconds: float = 0.0  # that requests waited for their first step, sum
    started: int = 0  # requests that had a first step
    restarts: int = 0  # of the engine's process
    problem: str = ""  # why it cannot work now, a sentence for the operator; empty: it can
    # Adapters that it does not serve, by name, each with a sentence for the operator.
    refused: Mapping[str, str] = field(default_factory=dict)


class Engine(Protocol):
    """A loaded model. Every method may be called from any thread."""

    name: str  # as ``engine`` in the catalog
    slots: int

    def submit(self, request: Request) -> "Future[Generation]":
        """Queue a request; returns at once, unless it has a schema that is to be checked first.

        The future ends with a Generation (also when cancelled or past its deadline), or raises
        ContextLengthExceeded, InvalidRequest (the chat template refuses it), EngineFailed,
        EngineLost (the engine died in the middle of it, perhaps by it) or EngineClosed (all in
        app.errors). One request's failure fails no other.
        """

    def cancel(self, request_id: str) -> None:
        """End a request between two steps; unknown or finished ids are ignored."""

    def stream(self, request_id: str) -> None:
        """From now on publish the text of a request as it grows, beginning with all that there is;
        unknown or finished ids are ignored.
        """

    def ready(self) -> bool:
        """Whether it can work now; raises EngineClosed if it never will again."""

    def stats(self) -> Stats:
        """What the engine is doing now."""

    def close(self) -> None:
        """Stop; requests in flight raise EngineClosed."""
