"""One request in flight, as the worker's process sees it: tokens come in, text goes out."""

from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

from app.errors import EngineFailed, GPTQueueError
from workers.engines.base import Delta, FinishReason, Generation, Request, TokenLogprob
from workers.engines.native import wire
from workers.engines.transformers.text import Text

# Tokens of a streaming request travel in groups: a reader sees text flow all the same.
STREAM_EVERY = 8


class Answer:
    """A request, its tokens so far and the future that waits for it."""

    def __init__(self, request: Request, prompt: Sequence[int], tokenizer: Any) -> None:
        """``prompt`` is the token ids, at least one."""
        self.request = request
        self.future: Future[Generation] = Future()
        # From now on the future cannot be cancelled behind the engine's back.
        self.future.set_running_or_notify_cancel()
        self._tokenizer = tokenizer
        self._prompt_tokens = len(prompt)
        # A completion goes on where its prompt ends; an answer in a chat begins afresh.
        before = prompt if request.messages is None else []
        self._text = _Text(tokenizer=tokenizer, prompt=before, stop=request.sampling.stop)
        self._tokens = 0
        self._logprobs: list[TokenLogprob] = []
        self._outcome: Generation | GPTQueueError | None = None

    @property
    def every(self) -> int:
        """As Job.every: how many new tokens are told together."""
        if self.request.sampling.stop:
            return 1  # nothing is decoded for long that no stop string lets through
        return STREAM_EVERY if self.request.stream else 0

    def push(self, tokens: list[int], logprobs: wire.Logprobs | None) -> bool:
        """Take new tokens; whether a stop string came up in them, which is the end."""
        self._text.push(tokens)
        self._tokens += len(tokens)
        if logprobs is not None:
            self._add_logprobs(tokens, logprobs)
        if self._text.stopped:
            self._tokens = self._text.stopped_after
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

    def delta(self) -> Delta | None:
        """The text that is new since the last delta, None if there is none."""
        text = self._text.take()
        return Delta(self.request.id, text, self._tokens) if text else None

    def resolve(self) -> None:
        """Tell who waits."""
        assert self._outcome is not None
        if isinstance(self._outcome, Generation):
            self.future.set_result(self._outcome)
        else:
            self.future.set_exception(self._outcome)

    def _finish(self, reason: FinishReason, *, prefilled: bool) -> None:
        text = self._text.finish()
        if self._text.stopped:  # the last characters can complete a stop string
            reason, self._tokens = FinishReason.STOP, self._text.stopped_after
        self._outcome = Generation(
            text=text,
            finish_reason=reason,
            prompt_tokens=self._prompt_tokens if prefilled else 0,
            completion_tokens=self._tokens,
            logprobs=tuple(self._logprobs[: self._tokens]) if self._asks_logprobs else None,
        )

    @property
    def _asks_logprobs(self) -> bool:
        return self.request.sampling.logprobs

    def _add_logprobs(self, tokens: list[int], logprobs: wire.Logprobs) -> None:
        for token, chosen, ids, values in zip(
            tokens,
            logprobs.chosen.tolist(),
            logprobs.top_ids.tolist(),
            logprobs.top.tolist(),
            strict=True,
        ):
            top = tuple(zip(map(self._shown, ids), values, strict=True))
            self._logprobs.append(TokenLogprob(self._shown(token), chosen, top))

    def _shown(self, token: int) -> str:
        text: str = self._tokenizer.decode([token], clean_up_tokenization_spaces=False)
        return text


class _Text:
    """Until Text itself takes many tokens and gives new text."""

    def __init__(self, **how: Any) -> None:
        self._inner = Text(**how)
        self._count = self._shown = 0
        self._whole = ""

    @property
    def stopped(self) -> bool:
        return self._inner.stopped

    @property
    def stopped_after(self) -> int:
        return self._count

    def push(self, tokens: list[int]) -> None:
        for token in tokens:
            if not self._inner.stopped:
                self._inner.push(token)
                self._count += 1

    def take(self) -> str:
        fresh, self._shown = self._whole[self._shown :], len(self._whole)
        return fresh

    def finish(self) -> str:
        self._whole = self._inner.finish()
        return self._whole
