"""One request on its way through the engine."""

import time
from concurrent.futures import Future
from typing import Any

from workers.engines.base import (
    GROUP_SECONDS,
    GROUP_TOKENS,
    Delta,
    FinishReason,
    Generation,
    Request,
    TokenLogprob,
)
from workers.engines.logprobs import TokenTexts
from workers.engines.native.wire import Logprobs
from workers.engines.text import Text


class Row:
    """A request, its tokens so far and the future that waits for it."""

    def __init__(self, *, request: Request, prompt: list[int], limit: int, tokenizer: Any) -> None:
        """``prompt`` is the token ids, at least one; ``limit`` the most tokens to generate."""
        self.request = request
        self.prompt = prompt
        self.limit = limit
        self.slot: int | None = None
        self.tokens: list[int] = []
        self.streams = request.stream
        self.started = False
        self.cancelled = False
        self.future: Future[Generation] = Future()
        # From now on the future cannot be cancelled behind the engine's back.
        self.future.set_running_or_notify_cancel()
        # A completion goes on where its prompt ends; an answer in a chat begins afresh.
        before = prompt if request.messages is None else []
        self._text = Text(tokenizer=tokenizer, prompt=before, stop=request.sampling.stop)
        self._logprobs: list[TokenLogprob] = []
        self._told = 0
        self._told_at = 0.0  # monotonic seconds

    @property
    def cached(self) -> int:
        """How many tokens of this row have keys and values: all but the last generated one."""
        return len(self.prompt) + len(self.tokens) - 1

    def interruption(self) -> FinishReason | None:
        """Why this row must end before it is done, if it must."""
        if self.cancelled:
            return FinishReason.CANCELLED
        deadline = self.request.deadline
        if deadline is not None and time.monotonic() >= deadline:
            return FinishReason.DEADLINE
        return None

    def accept(self, token: int, end_tokens: frozenset[int]) -> FinishReason | None:
        """Take the next token; the reason if it was the last one."""
        if token in end_tokens or token in self.request.sampling.stop_token_ids:
            return FinishReason.STOP
        self.tokens.append(token)
        self._text.push([token])
        if self._text.stopped:
            return FinishReason.STOP
        return FinishReason.LENGTH if len(self.tokens) >= self.limit else None

    def note(self, logprobs: Logprobs, texts: TokenTexts) -> None:
        """Keep the log-probabilities of the token that was accepted last."""
        self._logprobs += texts.described(self.tokens[-1:], logprobs)

    def delta(self, now: float) -> Delta | None:
        """The text that is to be told at ``now``, in monotonic seconds, if there is any."""
        fresh = len(self.tokens) - self._told
        if fresh < GROUP_TOKENS and (not fresh or now - self._told_at < GROUP_SECONDS):
            return None
        self._told, self._told_at = len(self.tokens), now
        return self._delta()

    def last_delta(self) -> Delta | None:
        """The text that was not told yet when the request is over, if there is any."""
        self._text.finish()
        return self._delta()

    def finish(self, reason: FinishReason) -> None:
        """Hand over what was generated; a row that never started used no prompt tokens."""
        text = self._text.finish()
        count = self._text.tokens
        self.future.set_result(
            Generation(
                text=text,
                finish_reason=FinishReason.STOP if self._text.stopped else reason,
                prompt_tokens=len(self.prompt) if self.started else 0,
                completion_tokens=count,
                logprobs=tuple(self._logprobs[:count]) if self.request.sampling.logprobs else None,
            )
        )

    def _delta(self) -> Delta | None:
        text = self._text.take()
        return Delta(self.request.id, text, self._text.tokens) if text else None
