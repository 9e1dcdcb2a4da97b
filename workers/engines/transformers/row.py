"""One request on its way through the engine."""

import time
from concurrent.futures import Future
from typing import Any

from workers.engines.base import FinishReason, Generation, Request
from workers.engines.transformers.sampling import Sampler
from workers.engines.transformers.text import Text


class Row:
    """A request, its tokens so far and the future that waits for it."""

    def __init__(self, *, request: Request, prompt: list[int], limit: int, tokenizer: Any) -> None:
        """``prompt`` is the token ids, at least one; ``limit`` the most tokens to generate."""
        self.request = request
        self.prompt = prompt
        self.limit = limit
        self.tokens: list[int] = []
        self.started = False
        self.cancelled = False
        self.future: Future[Generation] = Future()
        # From now on the future cannot be cancelled behind the engine's back.
        self.future.set_running_or_notify_cancel()
        self.sampler = Sampler(request.sampling, prompt)
        # A completion goes on where its prompt ends; an answer in a chat begins afresh.
        before = prompt if request.messages is None else []
        self._text = Text(tokenizer=tokenizer, prompt=before, stop=request.sampling.stop)

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
        if token in end_tokens:
            return FinishReason.STOP
        self.tokens.append(token)
        self.sampler.saw(token)
        self._text.push(token)
        if self._text.stopped:
            return FinishReason.STOP
        return FinishReason.LENGTH if len(self.tokens) >= self.limit else None

    def finish(self, reason: FinishReason) -> None:
        """Hand over what was generated; a row that never started used no prompt tokens."""
        text = self._text.finish()
        if self._text.stopped:
            reason = FinishReason.STOP
        self.future.set_result(
            Generation(
                text=text,
                finish_reason=reason,
                prompt_tokens=len(self.prompt) if self.started else 0,
                completion_tokens=len(self.tokens),
            )
        )
