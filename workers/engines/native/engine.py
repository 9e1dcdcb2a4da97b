"""The native engine in the worker's process: prompts become tokens here, and tokens text.

Decoding happens in a process of its own, which does not share the interpreter's lock with the
worker's threads, and whose death is not the worker's.
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import numpy as np
import structlog

from app.errors import ContextLengthExceeded, EngineClosed, EngineLost, GPTQueueError
from workers.engines.base import (
    FinishReason,
    Generation,
    Publisher,
    Request,
    Stats,
    harmless,
    nowhere,
)
from workers.engines.logprobs import TokenTexts
from workers.engines.native import wire
from workers.engines.native.answers import Answer
from workers.engines.native.flight import RESTARTING, Flight
from workers.engines.native.keeper import Keeper
from workers.engines.native.process import EngineProcess
from workers.engines.native.restarts import Patience
from workers.engines.native.schemas import Schemas
from workers.engines.prompts import Prompts

_SUMS = (
    "steps",
    "generated_tokens",
    "prefill_tokens",
    "preemptions",
    "step_seconds",
    "queue_seconds",
    "started",
)
_NO_STATS = Stats(running=0, waiting=0, steps=0, generated_tokens=0)

log = structlog.get_logger(__name__)


class NativeEngine:
    """Engine (see base)."""

    name = "native"

    def __init__(
        self,
        load: wire.Load,
        *,
        tokenizer: Any,
        context_length: int,
        slots: int,
        stall_seconds: float,
        patience: Patience | None = None,
        publish: Publisher = nowhere,
        adapters: Mapping[str, int] = MappingProxyType({}),
    ) -> None:
        """Waits until the model is loaded; raises ModelLoadFailed, UnknownArchitecture if another
        engine may know it. ``context_length`` is in tokens; a process that says nothing for
        ``stall_seconds`` with work in hand is killed. ``adapters`` are those of ``load``, in
        its order, with the context of each in tokens.
        """
        self.slots = slots
        self._tokenizer = tokenizer
        self._texts = TokenTexts(tokenizer)
        self._prompts = Prompts(tokenizer)
        self._contexts = [context_length, *adapters.values()]
        self._adapters = list(adapters)
        self._schemas = Schemas(tokenizer)
        self._publish = harmless(publish)
        self._flight = Flight()
        self._before = self._stats = _NO_STATS  # up to the last death, and up to now
        self._keeper = Keeper(
            load,
            stall_seconds=stall_seconds,
            patience=patience or Patience(),
            hear=self._hear,
            busy=lambda: len(self._flight) > 0,
            lose=self._lose,
        )

    def submit(self, request: Request) -> "Future[Generation]":
        """Queue a request; see Engine.submit."""
        try:
            return self._queue(request)
        except GPTQueueError as error:
            failed: Future[Generation] = Future()
            failed.set_exception(error)
            return failed

    def cancel(self, request_id: str) -> None:
        """End a request between two steps; see Engine.cancel."""
        with self._keeper.changed:
            key = self._flight.key_of(request_id)
            if key is not None and self._keeper.process is not None:
                self._keeper.process.cancel(key, FinishReason.CANCELLED)

    def stream(self, request_id: str) -> None:
        """Publish a request's text from now on; see Engine.stream."""
        with self._keeper.changed:
            found = self._flight.stream(request_id)
            if found is not None and self._keeper.process is not None:
                self._keeper.process.stream(*found)

    def ready(self) -> bool:
        """Whether it can work now; see Engine.ready."""
        return self._keeper.ready()

    def stats(self) -> Stats:
        """What the engine is doing; what only its process knows is a quarter of a second old."""
        in_flight = len(self._flight)
        running = min(self._stats.running, in_flight)
        return replace(
            self._stats,
            running=running,
            waiting=in_flight - running,
            restarts=self._keeper.restarts,
            problem=self._keeper.problem,
            refused=self._keeper.refused,
        )

    def close(self) -> None:
        """Stop; requests in flight raise EngineClosed."""
        self._keeper.close()
        _resolve(self._flight.empty(EngineClosed()))
        self._keeper.join()
        self._schemas.close()

    def _queue(self, request: Request) -> "Future[Generation]":
        adapter = self._adapters.index(request.adapter) + 1 if request.adapter else 0
        prompt, limit = self._prompts.encode(request, self._contexts[adapter])
        self._check_room(len(prompt), limit)
        if request.sampling.json_schema is not None:
            self._schemas.check(request.sampling.json_schema)
        answer = Answer(request, prompt, tokenizer=self._tokenizer, texts=self._texts)
        with self._keeper.changed:
            if not self._keeper.ready():
                raise EngineClosed(RESTARTING)
            if request.adapter in self._keeper.refused:
                raise EngineClosed(self._keeper.refused[request.adapter])
            job = wire.Job(
                key=self._flight.add(answer),
                prompt=np.array(prompt, np.int32),
                limit=limit,
                sampling=request.sampling,
                deadline=request.deadline,
                every=answer.every,
                adapter=adapter,
            )
            assert self._keeper.process is not None
            self._keeper.process.submit(job)
        return answer.future

    def _check_room(self, prompt: int, limit: int) -> None:
        room = self._keeper.kv_tokens
        if prompt + limit > room:
            raise ContextLengthExceeded(
                f"The prompt has {prompt} tokens and {limit} more were asked for; this worker's "
                f"memory has room for {room} tokens of one job, prompt and completion together.",
                prompt_tokens=prompt,
                context_length=room,
            )

    def _hear(self, process: EngineProcess, progress: wire.Progress) -> bool:
        """Take what the process tells; whether a request was answered."""
        if progress.stats is not None:
            self._stats = _sum(self._before, progress.stats)
        news = self._flight.read(progress)
        for key in news.stopped:
            process.cancel(key, FinishReason.STOP)
        if news.deltas:
            self._publish(news.deltas)
        _resolve(news.over)
        return any(answer.whole for answer in news.over)

    def _lose(self, why: str) -> None:
        self._before = self._stats = replace(self._stats, running=0, waiting=0, kv_used=0)
        _resolve(self._flight.empty(EngineLost(why)))


def _resolve(answers: Sequence[Answer]) -> None:
    for answer in answers:
        answer.resolve()


def _sum(before: Stats, now: Stats) -> Stats:
    """``now``, with the sums of the processes before added."""
    return replace(now, **{name: getattr(before, name) + getattr(now, name) for name in _SUMS})
