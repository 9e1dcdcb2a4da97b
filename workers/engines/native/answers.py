"""One request in flight, as the worker's process sees it: tokens come in, text goes out."""

from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

from app.errors import EngineFailed, GPTQueueError
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
from workers.engines.native import wire
from workers.engines.text import Text

_WHOLE = {FinishReason.STOP, FinishReason.LENGTH}


class Answer:
    """A request, its tokens so far and the future that waits for it."""

    def __init__(
        self, request: Request, prompt: Sequence[int], *, tokenizer: Any, texts: TokenTexts
    ) -> None:
        """``prompt`` is the token ids, at least one; ``texts`` are those of the tokenizer's."""
        self.request = request
        self.streams = request.stream
        self.future: Future[Generation] = Future()
        # From now on the future cannot be cancelled behind the engine's back.
        self.future.set_running_or_notify_cancel()
        self._texts = texts
        self._prompt_tokens = len(prompt)
        # A completion goes on where its prompt ends; an answer in a chat begins afresh.
        before = prompt if request.messages is None else []
        self._text = Text(tokenizer=tokenizer, prompt=before, stop=request.sampling.stop)
        self._logprobs: list[TokenLogprob] = []
        self._told, self._told_at = 0, float("-inf")  # tokens, and monotonic seconds
        self._outcome: Generation | GPTQueueError | None = None

    @property
    def every(self) -> int:
        """As Job.every: how many new tokens are told together."""
        if self.request.sampling.stop:
            return 1  # nothing is decoded for long that no stop string lets through
        return GROUP_TOKENS if self.streams else 0

    @property
    def whole(self) -> bool:
        """Whether it ended as it was meant to: nobody and nothing cut it off."""
        ended = self._outcome
        return isinstance(ended, Generation) and ended.finish_reason in _WHOLE

    def push(self, tokens: list[int], logprobs: wire.Logprobs | None) -> bool:
        """Take new tokens; whether a stop string came up in them, which is the end."""
        self._text.push(tokens)
        if logprobs is not None:
            self._logprobs.extend(self._texts.described(tokens, logprobs))
        if self._text.stopped:
            self._finish(FinishReason.STOP, prefilled=True)
        return self._text.stopped

    def end(self, end: wire.End) -> None:
        """The engine is done with it."""
        if end.reason is None:
            self.fail(EngineFailed(end.error))
        else:
            self._finish(end.reason, prefilled=end.prefilled)

    def fail(self, error: GPTQueueError) -> None:
        """It ends with this error."""
        self._outcome = error

    def delta(self, now: float) -> Delta | None:
        """The text that is to be told at ``now``, in monotonic seconds, None if there is none; all
        that nobody has seen yet once the request is over.
        """
        text = self._text.take() if self._outcome is not None or self._is_due(now) else ""
        if not text:
            return None
        self._told, self._told_at = self._text.tokens, now
        return Delta(self.request.id, text, self._told)

    def resolve(self) -> None:
        """Tell who waits."""
        assert self._outcome is not None
        if isinstance(self._outcome, Generation):
            self.future.set_result(self._outcome)
        else:
            self.future.set_exception(self._outcome)

    def _is_due(self, now: float) -> bool:
        """Whether there is a group to tell; the engine makes them unless it tells every token."""
        fresh = self._text.tokens - self._told
        waited = now - self._told_at >= GROUP_SECONDS
        return self.every > 1 or fresh >= GROUP_TOKENS or waited

    def _finish(self, reason: FinishReason, *, prefilled: bool) -> None:
        text = self._text.finish()
        if self._text.stopped:  # the last characters can complete a stop string
            reason = FinishReason.STOP
        asked = self.request.sampling.logprobs
        self._outcome = Generation(
            text=text,
            finish_reason=reason,
            prompt_tokens=self._prompt_tokens if prefilled else 0,
            completion_tokens=self._text.tokens,
            logprobs=tuple(self._logprobs[: self._text.tokens]) if asked else None,
        )
