"""The loop that decodes many requests together."""

import math
import threading
import time
from collections import deque
from collections.abc import Iterable
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from typing import Any

import numpy as np
import structlog
import torch

from app.errors import EngineClosed, EngineFailed, EngineLost, GPTQueueError
from workers.engines.base import (
    FinishReason,
    Generation,
    Publisher,
    Request,
    Stats,
    harmless,
    nowhere,
)
from workers.engines.breakdown import gpu_failure
from workers.engines.endings import end_tokens
from workers.engines.logprobs import TokenTexts
from workers.engines.memory import is_out_of_memory
from workers.engines.native.wire import Logprobs
from workers.engines.prompts import Prompts
from workers.engines.sampling import Sampler
from workers.engines.transformers.batch import Batch, Forward
from workers.engines.transformers.clock import Clock
from workers.engines.transformers.row import Row

# At most so many padded prompt tokens run between two steps, unless a single prompt is longer:
# it bounds the memory of a prefill and how long the rows that decode already have to wait.
PREFILL_TOKENS = 2048
CLOSE_SECONDS = 10.0  # which a step may take when the engine is closed
NO_ADAPTERS = 'Its base runs on the engine "transformers", which serves no adapters.'

log = structlog.get_logger()


class _GpuFailed(Exception):
    """No step can be taken in this process any more."""


class TransformersEngine:
    """Engine (see base) over a loaded transformers model; one thread runs every forward pass."""

    name = "transformers"

    def __init__(
        self,
        *,
        model: Any,
        tokenizer: Any,
        context_length: int,
        slots: int,
        stall_seconds: float = math.inf,
        publish: Publisher = nowhere,
        adapters: Iterable[str] = (),
    ) -> None:
        """``context_length`` is in tokens, ``slots`` how many rows decode together at most; a step
        longer than ``stall_seconds`` is the last; ``publish`` is told the text of streams; of the
        model's ``adapters`` none is served.
        """
        self.slots = slots
        self._publish = harmless(publish)
        self._refused = dict.fromkeys(adapters, NO_ADAPTERS)
        self._tokenizer = tokenizer
        self._forward = Forward(model)
        self._prompts, self._context_length = Prompts(tokenizer), context_length
        self._end_tokens = end_tokens(model, tokenizer)
        self._texts = TokenTexts(tokenizer)
        self._sampler = Sampler(slots, model.config.get_text_config().vocab_size, model.device)
        self._free = list(range(slots))
        self._batch = Batch(self._forward)
        self._waiting: deque[Row] = deque()
        self._rows: dict[str, Row] = {}
        self._changed = threading.Condition()
        self._closed, self._problem = False, ""  # and why it can work no longer
        self._clock = Clock(stall_seconds)
        self._steps = self._generated = 0
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    def submit(self, request: Request) -> "Future[Generation]":
        """Queue a request; see Engine.submit."""
        try:
            row = self._row(request)
            with self._changed:
                if self._closed:
                    raise EngineClosed
                if request.id in self._rows:
                    raise EngineFailed("A request with this id is in flight already.")
                self._rows[request.id] = row
                self._waiting.append(row)
                self._changed.notify()
        except GPTQueueError as error:
            failed: Future[Generation] = Future()
            failed.set_exception(error)
            return failed
        return row.future

    def cancel(self, request_id: str) -> None:
        """End a request between two steps; see Engine.cancel."""
        with self._changed:
            if row := self._rows.get(request_id):
                row.cancelled = True

    def stream(self, request_id: str) -> None:
        """Publish a request's text from now on; see Engine.stream."""
        with self._changed:
            if row := self._rows.get(request_id):
                row.streams = True

    def ready(self) -> bool:
        """Whether it can work now; see Engine.ready."""
        if not self._closed and self._clock.hangs():
            self._problem = f"A step of the engine hung for {self._clock.allowed:g} s."
            log.critical("engine.hung", seconds=self._clock.allowed)
            self._abandon()
        if self._closed:
            raise EngineClosed(self._problem or None)
        return True

    def stats(self) -> Stats:
        """What the engine is doing now."""
        with self._changed:
            waiting = len(self._waiting)
            return Stats(
                running=len(self._rows) - waiting,
                waiting=waiting,
                steps=self._steps,
                generated_tokens=self._generated,
                refused=self._refused,
            )

    def close(self) -> None:
        """Stop; requests in flight raise EngineFailed. A step that hangs is left to itself."""
        with self._changed:
            hung, self._closed = bool(self._problem), True
            self._changed.notify()
        self._thread.join(0 if hung else CLOSE_SECONDS)
        self._abandon()

    def _row(self, request: Request) -> Row:
        request.sampling.refuse_schema()
        prompt, limit = self._prompts.encode(request, self._context_length)
        return Row(request=request, prompt=prompt, limit=limit, tokenizer=self._tokenizer)

    @torch.inference_mode()
    def _run(self) -> None:
        try:
            with suppress(_GpuFailed):
                while self._work_arrives():
                    self._end_interrupted()
                    self._admit()
                    self._decode()
                    self._clock.stop()
        finally:
            self._abandon()

    def _abandon(self) -> None:
        # Also after a bug of ours: nobody may wait for a thread that is gone.
        with self._changed:
            asked, self._closed = self._closed, True
            rows, self._rows = list(self._rows.values()), {}
            self._waiting.clear()
        why = self._problem or None
        for row in rows:  # of whom nothing is released: on a lost GPU that fails
            lost = row.started and not asked
            with suppress(InvalidStateError):  # a step that hung may end just now
                row.future.set_exception(EngineLost(why) if lost else EngineClosed(why))

    def _work_arrives(self) -> bool:
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._rows)
            return not self._closed

    def _end_interrupted(self) -> None:
        with self._changed:
            rows = list(self._rows.values())
        ended = {row: reason for row in rows if (reason := row.interruption())}
        self._finish(ended, going=[])
        self._batch.keep([row for row in self._batch.rows if row not in ended])

    def _admit(self) -> None:
        newcomers = self._newcomers()
        if not newcomers:
            return
        joining = Batch(self._forward)
        self._clock.start(tokens=len(newcomers) * max(len(row.prompt) for row in newcomers))
        try:
            for row in newcomers:
                row.slot = self._free.pop()
                self._sampler.admit(row.slot, row.request.sampling, np.array(row.prompt, np.int32))
            self._advance(joining, joining.prefill(newcomers))
            self._batch.merge(joining)
        except Exception as error:
            self._forward_failed(newcomers, error)

    def _newcomers(self) -> list[Row]:
        """The rows at the head of the queue that a free slot and the prefill budget take."""
        rows: list[Row] = []
        longest = 0
        with self._changed:
            while self._waiting and len(self._batch.rows) + len(rows) < self.slots:
                longest = max(longest, len(self._waiting[0].prompt))
                if rows and longest * (len(rows) + 1) > PREFILL_TOKENS:
                    break
                rows.append(self._waiting.popleft())
        for row in rows:
            row.started = True
        return rows

    def _decode(self) -> None:
        rows = self._batch.rows
        if not rows:
            return
        self._clock.start()
        try:
            self._advance(self._batch, self._batch.step())
        except Exception as error:
            self._batch = Batch(self._forward)
            self._forward_failed(rows, error)

    def _advance(self, batch: Batch, logits: torch.Tensor) -> None:
        """Give every row its next token, and let those that are done leave."""
        self._steps += 1
        slots = np.array([row.slot for row in batch.rows], np.int32)
        positions = np.array([len(row.tokens) for row in batch.rows], np.int32)
        chosen = self._sampler.choose(logits, slots, positions).known()
        staying, ended = [], {}
        for place, (row, token) in enumerate(zip(batch.rows, chosen.tokens.tolist(), strict=True)):
            if token < 0:
                self._fail([row], EngineFailed("The model's output is not a number."))
            elif reason := self._accept(row, token, chosen.logprobs.get(place)):
                ended[row] = reason
            else:
                staying.append(row)
        self._finish(ended, going=staying)
        batch.keep(staying)

    def _accept(self, row: Row, token: int, logprobs: Logprobs | None) -> FinishReason | None:
        before = len(row.tokens)
        reason = row.accept(token, self._end_tokens)
        self._generated += len(row.tokens) - before
        if logprobs and len(row.tokens) > before:
            row.note(logprobs, self._texts)
        return reason

    def _finish(self, ended: dict[Row, FinishReason], *, going: list[Row]) -> None:
        """Tell new text, of those that go on as well, and then hand over what is done."""
        self._tell(going, list(ended))
        for row, reason in ended.items():
            self._forget(row)
            row.finish(reason)

    def _tell(self, going: list[Row], ended: list[Row]) -> None:
        now = time.monotonic()
        told = [row.delta(now) for row in going if row.streams]
        told += [row.last_delta() for row in ended if row.streams]
        deltas = [delta for delta in told if delta]
        if deltas:
            self._publish(deltas)

    def _fail(self, rows: list[Row], error: EngineFailed) -> None:
        for row in rows:
            self._forget(row)
            if not row.future.done():
                row.future.set_exception(error)

    def _forget(self, row: Row) -> None:
        with self._changed:
            if self._rows.get(row.request.id) is row:
                del self._rows[row.request.id]
            if not row.started and row in self._waiting:
                self._waiting.remove(row)
        if row.slot is not None:
            self._sampler.release(row.slot)
            self._free.append(row.slot)
            row.slot = None

    def _forward_failed(self, rows: list[Row], error: Exception) -> None:
        if self._closed:
            return  # whoever closed it answers for the rows
        # The library's own words go to the log alone: the customer can do nothing with them.
        log.error("engine.forward_failed", rows=len(rows), exc_info=error)
        if failure := gpu_failure(error):
            self._problem = failure
            raise _GpuFailed from error
        if is_out_of_memory(error):
            self._fail(rows, EngineLost("The engine ran out of memory while it ran this job."))
        else:
            self._fail(rows, EngineFailed())
