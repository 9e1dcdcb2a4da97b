"""A deterministic engine without a model: for tests, load runs and trying the product out.

One whitespace-separated word is one token, in prompts and answers; the messages of a chat are
joined by newlines and their roles are not counted. The same prompt and seed give the same text.
A token's id is its place in ``fake_words.WORDS``, and every word has the same probability, so its
log-probability is always the same; what else changes probabilities is ignored, and a JSON schema
is refused.
A catalog version chooses the behaviour in its source: ``fake:tokens_per_second=50&fail_every=10``.
"""

import heapq
import threading
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

from app.errors import (
    ContextLengthExceeded,
    EngineClosed,
    EngineFailed,
    GPTQueueError,
)
from workers.engines.base import (
    GROUP_SECONDS,
    Delta,
    FinishReason,
    Generation,
    Publisher,
    Request,
    Stats,
    harmless,
    nowhere,
)
from workers.engines.fake_behaviour import FakeBehaviour
from workers.engines.fake_words import answer, before_stop, cut, logprobs, prompt_text


@dataclass(slots=True, eq=False)
class _Job:
    request: Request
    prompt_tokens: int
    words: list[str]
    text: str  # of all of them
    reason: FinishReason
    fails: bool
    hangs: bool
    future: "Future[Generation]" = field(default_factory=Future)
    started: float | None = None
    done: bool = False
    streams: bool = False
    told: int = 0  # characters

    def text_of(self, words: int) -> str:
        """What so many words say."""
        return self.text[: len(" ".join(self.words[:words]))]

    def delta(self, words: int) -> Delta | None:
        """The text that is new once there are so many words, None if there is none."""
        fresh = self.text_of(words)[self.told :]
        self.told += len(fresh)
        return Delta(self.request.id, fresh, words) if fresh else None


class FakeEngine:
    """Engine (see base) that knows every answer at submit and only waits for its time."""

    name = "fake"

    def __init__(
        self,
        *,
        behaviour: FakeBehaviour,
        context_length: int,
        slots: int,
        publish: Publisher = nowhere,
    ) -> None:
        """``context_length`` is in tokens; ``slots`` is how many requests run at a time;
        ``publish`` is told the text of those that stream.
        """
        self.slots = slots
        self._behaviour = behaviour
        self._context_length = context_length
        self._changed = threading.Condition()
        self._jobs: dict[str, _Job] = {}
        self._waiting: deque[_Job] = deque()
        self._alarms: list[tuple[float, int, _Job]] = []
        self._running = self._submitted = self._alarm = self._generated = 0
        self._closed = False
        self._publish = harmless(publish)
        self._publishing = threading.Lock()
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

    def stream(self, request_id: str) -> None:
        """Publish a request's text from now on; see Engine.stream."""
        with self._changed:
            job = self._jobs.get(request_id)
            if job:
                job.streams = True
                self._changed.notify()

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
        words = answer(request, prompt, self._behaviour.answer_tokens)
        words, reason = cut(words, min(request.max_tokens, room), request.sampling)
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
                text=before_stop(" ".join(words), request.sampling.stop),
                reason=reason,
                streams=request.stream,
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
                streams = [job for job in self._jobs.values() if job.streams and job.started]
            self._tell([(job, self._progress(job)) for job in streams])
            with self._changed:
                waits = [GROUP_SECONDS] if streams else []
                if self._alarms:
                    waits.append(self._alarms[0][0] - time.monotonic())
                if not self._closed and min(waits, default=1) > 0:
                    self._changed.wait(min(waits, default=None))

    def _tell(self, progress: Sequence[tuple[_Job, int]]) -> None:
        """Publish what is new of these, who have so many words."""
        with self._publishing:
            deltas = [job.delta(words) for job, words in progress]
            told = [delta for delta in deltas if delta]
            if told:
                self._publish(told)

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
        if job.streams:
            self._tell([(job, len(words))])
        job.future.set_result(
            Generation(
                text=job.text_of(len(words)),
                finish_reason=reason,
                prompt_tokens=job.prompt_tokens if job.started is not None else 0,
                completion_tokens=len(words),
                logprobs=logprobs(words) if job.request.sampling.logprobs else None,
            )
        )

    def _progress(self, job: _Job) -> int:
        """How many tokens a request that was interrupted had got to."""
        if job.started is None:
            return 0
        return int((time.monotonic() - job.started) * self._behaviour.tokens_per_second)


def _is_nth(number: int, every: int) -> bool:
    return every > 0 and number % every == 0
