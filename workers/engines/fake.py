"""A deterministic engine without a model: for tests, load runs and trying the product out.

One whitespace-separated word is one token, in prompts and answers; the messages of a chat are
joined by newlines and their roles are not counted. The same prompt and seed give the same text.
A token's id is its place in ``WORDS``, and every word has the same probability, so its
log-probability is always the same; what else changes probabilities is ignored, and a JSON schema
is refused.
A catalog version chooses the behaviour in its source: ``fake:tokens_per_second=50&fail_every=10``.
"""

import heapq
import math
import random
import threading
import time
from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass, field
from itertools import accumulate, takewhile
from urllib.parse import parse_qsl

from app.errors import (
    ContextLengthExceeded,
    EngineClosed,
    EngineFailed,
    GPTQueueError,
    ModelLoadFailed,
)
from workers.engines.base import FinishReason, Generation, Request, Sampling, Stats, TokenLogprob

NOUNS = ["queue", "job", "worker", "model", "token", "answer", "lease", "result"]
WORDS = ["a", "the", "every", "waits", "runs", "ends", "and", "then", "with", *NOUNS]
SHORTEST, LONGEST = 8, 64


@dataclass(frozen=True, slots=True)
class FakeBehaviour:
    """How a FakeEngine behaves; 0 turns a fault off.

    ``tokens_per_second`` is each request's own speed, 0 answers at once; ``answer_tokens`` is the
    length of an answer that nothing cuts short, 0 for 8 to 64, by prompt. Every n-th request
    fails at its end (``fail_every``) or never ends by itself (``hang_every``); ``fail_at_load`` 1
    refuses to load at all.
    """

    tokens_per_second: float = 0
    answer_tokens: int = 0
    fail_every: int = 0
    hang_every: int = 0
    fail_at_load: int = 0

    @classmethod
    def parse(cls, source: str) -> "FakeBehaviour":
        """The behaviour that a catalog source names; raises ModelLoadFailed, also when asked to."""
        given = dict(parse_qsl(source.partition(":")[2], keep_blank_values=True))
        try:
            speed = float(given.pop("tokens_per_second", 0))
            counts = {name: int(value) for name, value in given.items()}
            behaviour = cls(tokens_per_second=speed, **counts)
        except (TypeError, ValueError) as error:
            raise ModelLoadFailed(f"The fake engine does not understand {source!r}.") from error
        if behaviour.fail_at_load:
            raise ModelLoadFailed("The fake engine was told to fail at load.")
        return behaviour


def prompt_text(request: Request) -> str:
    """The text whose words are the prompt's tokens."""
    if request.messages is None:
        return request.prompt or ""
    return "\n".join(message.content for message in request.messages)


@dataclass(slots=True, eq=False)
class _Job:
    request: Request
    prompt_tokens: int
    words: list[str]
    reason: FinishReason
    fails: bool
    hangs: bool
    future: "Future[Generation]" = field(default_factory=Future)
    started: float | None = None
    done: bool = False


class FakeEngine:
    """Engine (see base) that knows every answer at submit and only waits for its time."""

    name = "fake"

    def __init__(self, *, behaviour: FakeBehaviour, context_length: int, slots: int) -> None:
        """``context_length`` is in tokens; ``slots`` is how many requests run at a time."""
        self.slots = slots
        self._behaviour = behaviour
        self._context_length = context_length
        self._changed = threading.Condition()
        self._jobs: dict[str, _Job] = {}
        self._waiting: deque[_Job] = deque()
        self._alarms: list[tuple[float, int, _Job]] = []
        self._running = self._submitted = self._alarm = self._generated = 0
        self._closed = False
        threading.Thread(target=self._run, name="fake-engine", daemon=True).start()

    def submit(self, request: Request) -> "Future[Generation]":
        """Queue a request; see Engine.submit."""
        try:
            future = self._queue(request)
        except GPTQueueError as error:
            future = Future()
            future.set_exception(error)
        self._turn()
        return future

    def cancel(self, request_id: str) -> None:
        """End a request now; see Engine.cancel."""
        with self._changed:
            job = self._jobs.get(request_id)
            if job:
                self._forget(job)
        if job:
            self._resolve(job, FinishReason.CANCELLED)
            self._turn()

    def ready(self) -> bool:
        """Whether it can work now; see Engine.ready."""
        if self._closed:
            raise EngineClosed
        return True

    def stats(self) -> Stats:
        """What the engine is doing now; every token counts as a step of its own."""
        with self._changed:
            return Stats(
                running=self._running,
                waiting=len(self._jobs) - self._running,
                steps=self._generated,
                generated_tokens=self._generated,
            )

    def close(self) -> None:
        """Stop; requests in flight raise EngineFailed."""
        with self._changed:
            self._closed = True
            jobs = list(self._jobs.values())
            for job in jobs:
                self._forget(job)
            self._changed.notify()
        for job in jobs:
            job.future.set_exception(EngineClosed())

    def _queue(self, request: Request) -> "Future[Generation]":
        request.sampling.refuse_schema()
        prompt = prompt_text(request)
        prompt_tokens = len(prompt.split())
        room = self._context_length - prompt_tokens
        if room < 1:
            raise ContextLengthExceeded(
                f"The prompt has {prompt_tokens} tokens; the model's context is "
                f"{self._context_length} tokens, prompt and completion together.",
                prompt_tokens=prompt_tokens,
                context_length=self._context_length,
            )
        words = _answer(request, prompt, self._behaviour.answer_tokens)
        words, reason = _cut(words, min(request.max_tokens, room), request.sampling)
        with self._changed:
            if self._closed:
                raise EngineClosed
            if request.id in self._jobs:
                raise EngineFailed("A request with this id is in flight already.")
            self._submitted += 1
            job = _Job(
                request=request,
                prompt_tokens=prompt_tokens,
                words=words,
                reason=reason,
                fails=_is_nth(self._submitted, self._behaviour.fail_every),
                hangs=_is_nth(self._submitted, self._behaviour.hang_every),
            )
            job.future.set_running_or_notify_cancel()
            self._jobs[request.id] = job
            self._waiting.append(job)
            if request.deadline is not None:
                self._wake(request.deadline, job)
        return job.future

    def _run(self) -> None:
        while not self._closed:
            self._turn()
            with self._changed:
                wait = self._alarms[0][0] - time.monotonic() if self._alarms else None
                if not self._closed and (wait is None or wait > 0):
                    self._changed.wait(wait)

    def _turn(self) -> None:
        """End what is due and start what has a slot; any thread may take a turn."""
        now = time.monotonic()
        ended = []
        with self._changed:
            self._start(now)
            while self._alarms and self._alarms[0][0] <= now:
                job = heapq.heappop(self._alarms)[2]
                if not job.done:
                    self._forget(job)
                    ended.append(job)
                self._start(now)
        for job in ended:
            self._resolve(job, self._due_reason(job, now))

    def _start(self, now: float) -> None:
        while self._waiting and (self._waiting[0].done or self._running < self.slots):
            job = self._waiting.popleft()
            if job.done:
                continue
            self._running += 1
            job.started = now
            if not job.hangs:
                self._wake(now + self._seconds(job), job)

    def _wake(self, at: float, job: _Job) -> None:
        self._alarm += 1
        heapq.heappush(self._alarms, (at, self._alarm, job))
        self._changed.notify()

    def _forget(self, job: _Job) -> None:
        job.done = True
        del self._jobs[job.request.id]
        self._running -= job.started is not None

    def _seconds(self, job: _Job) -> float:
        speed = self._behaviour.tokens_per_second
        return len(job.words) / speed if speed else 0

    def _due_reason(self, job: _Job, now: float) -> FinishReason:
        over = job.started is not None and not job.hangs and now >= job.started + self._seconds(job)
        return job.reason if over else FinishReason.DEADLINE

    def _resolve(self, job: _Job, reason: FinishReason) -> None:
        words = job.words if reason is job.reason else job.words[: self._progress(job)]
        if job.fails and reason is job.reason:
            job.future.set_exception(EngineFailed("The fake engine was told to fail."))
            return
        with self._changed:
            self._generated += len(words)
        text = _before_stop(" ".join(words), job.request.sampling.stop)
        job.future.set_result(
            Generation(
                text=text,
                finish_reason=reason,
                prompt_tokens=job.prompt_tokens if job.started is not None else 0,
                completion_tokens=len(words),
                logprobs=_logprobs(words) if job.request.sampling.logprobs else None,
            )
        )

    def _progress(self, job: _Job) -> int:
        """How many tokens a request that was interrupted had got to."""
        if job.started is None:
            return 0
        return int((time.monotonic() - job.started) * self._behaviour.tokens_per_second)


def _answer(request: Request, prompt: str, length: int) -> list[str]:
    sampling = request.sampling
    greedy = sampling.temperature == 0
    seed = random.random() if sampling.seed is None else sampling.seed
    chance = random.Random(f"{'greedy' if greedy else seed}\n{prompt}")
    return chance.choices(WORDS, k=length or chance.randint(SHORTEST, LONGEST))


def _cut(words: list[str], limit: int, sampling: Sampling) -> tuple[list[str], FinishReason]:
    """The words that are generated, the one that completes a stop string included, and why."""
    last = {WORDS[each] for each in sampling.stop_token_ids if each < len(WORDS)}
    words = list(takewhile(lambda word: word not in last, words))
    stop = sampling.stop
    for count, text in enumerate(accumulate(words[:limit], "{} {}".format), start=1):
        if any(each in text for each in stop):
            return words[:count], FinishReason.STOP
        if not stop:
            break
    reason = FinishReason.LENGTH if len(words) > limit else FinishReason.STOP
    return words[:limit], reason


def _logprobs(words: list[str]) -> tuple[TokenLogprob, ...]:
    """Joined, the tokens are the text before its stop strings are cut off."""
    logprob = -math.log(len(WORDS))
    top = tuple((f" {word}", logprob) for word in WORDS[:5])
    tokens = [f" {word}" if place else word for place, word in enumerate(words)]
    return tuple(TokenLogprob(token, logprob, top) for token in tokens)


def _before_stop(text: str, stop: tuple[str, ...]) -> str:
    found = [at for each in stop if (at := text.find(each)) >= 0]
    return text[: min(found)] if found else text


def _is_nth(number: int, every: int) -> bool:
    return every > 0 and number % every == 0
