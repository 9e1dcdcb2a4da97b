"""The threads between the worker and an OpenAI-compatible server.

As many threads as slots, each with a connection of its own; one more watches the deadlines. When a
request goes wrong on the server's side:

- The server is away (no connection, or it answers that it cannot work now): the request is sent
  again, from the beginning and with a growing pause, until the server is back or the request's
  deadline has come. Nothing is lost while a server restarts.
- The server broke (it failed, or the answer broke off): the same, three times; then EngineLost,
  since the request may be what breaks it.
- Some of the answer was streamed already: EngineLost at once, since another answer would begin
  differently.

Only the answer that came to its end is counted, or the one that was interrupted.
"""

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from http import HTTPStatus

import structlog

from app.errors import EngineClosed, EngineFailed, EngineLost, GPTQueueError, InvalidRequest
from workers.engines.base import (
    Delta,
    FinishReason,
    Generation,
    Publisher,
    Request,
    Stats,
    harmless,
    nowhere,
)
from workers.engines.openai import link as wire
from workers.engines.openai import protocol
from workers.engines.openai.call import Call
from workers.engines.openai.link import Link, Server, ServerAway, ServerBroke

MOST_BREAKS = 3
FIRST_PAUSE, LONGEST_PAUSE = 0.25, 8.0  # seconds

log = structlog.get_logger(__name__)


class OpenAIEngine:
    """Engine (see base) whose model runs in a server beside the worker."""

    name = "openai"

    def __init__(
        self, server: Server, *, model: str, slots: int, publish: Publisher = nowhere
    ) -> None:
        """``model`` is the server's name for it; ``slots`` is how many requests run at a time."""
        self.slots = slots
        self._server = server
        self._model = model
        self._publisher = harmless(publish)
        self._publishing = threading.Lock()
        self._lock = threading.Lock()
        self._work = threading.Condition(self._lock)
        self._alarm = threading.Condition(self._lock)
        self._calls: dict[str, Call] = {}
        self._waiting: deque[Call] = deque()
        self._closed = False
        self._problem = ""
        self._generated = self._prefilled = self._started = 0
        self._queued = 0.0
        for number in range(slots):
            threading.Thread(target=self._serve, name=f"openai-{number}", daemon=True).start()
        threading.Thread(target=self._watch, name="openai-deadlines", daemon=True).start()

    def submit(self, request: Request) -> "Future[Generation]":
        """Queue a request; see Engine.submit."""
        call = Call(request, self._publish)
        with self._lock:
            error = self._refusal(request)
            if error is None:
                self._calls[request.id] = call
                self._waiting.append(call)
                self._work.notify()
                self._alarm.notify()
        if error is not None:
            call.future.set_exception(error)
        return call.future

    def cancel(self, request_id: str) -> None:
        """End a request: its connection is closed; see Engine.cancel."""
        with self._lock:
            call = self._calls.get(request_id)
        if call is not None:
            self._interrupt(call, FinishReason.CANCELLED)

    def stream(self, request_id: str) -> None:
        """Publish a request's text from now on; see Engine.stream."""
        with self._lock:
            call = self._calls.get(request_id)
        if call is not None:
            call.streams = True

    def ready(self) -> bool:
        """True until it is closed: while the server is away, requests wait for it."""
        if self._closed:
            raise EngineClosed
        return True

    def stats(self) -> Stats:
        """What the engine is doing now; steps are the server's own affair."""
        with self._lock:
            return Stats(
                running=len(self._calls) - len(self._waiting),
                waiting=len(self._waiting),
                steps=0,
                generated_tokens=self._generated,
                prefill_tokens=self._prefilled,
                queue_seconds=self._queued,
                started=self._started,
                problem=self._problem,
            )

    def close(self) -> None:
        """Stop; requests in flight raise EngineClosed."""
        with self._lock:
            self._closed = True
            calls = list(self._calls.values())
            self._work.notify_all()
            self._alarm.notify_all()
        for call in calls:
            self._interrupt(call, None)

    def _refusal(self, request: Request) -> GPTQueueError | None:
        if self._closed:
            return EngineClosed()
        try:
            request.sampling.refuse_schema()
        except InvalidRequest as error:
            return error
        if request.id in self._calls:
            return EngineFailed("A request with this id is in flight already.")
        return None

    def _interrupt(self, call: Call, reason: FinishReason | None) -> None:
        call.interrupt(reason)
        with self._lock:
            waits = call in self._waiting
            if waits:
                self._waiting.remove(call)
        if waits:
            self._settle(call, self._interrupted)

    def _watch(self) -> None:
        while not self._closed:
            with self._lock:
                calls = list(self._calls.values())
            for call in calls:
                if call.overdue:
                    self._interrupt(call, FinishReason.DEADLINE)
            with self._lock:
                if not self._closed:
                    self._alarm.wait(self._until_next_deadline())

    def _until_next_deadline(self) -> float | None:
        ahead = [
            call.request.deadline
            for call in self._calls.values()
            if call.request.deadline is not None and not call.interrupted
        ]
        return max(min(ahead) - time.monotonic(), 0) if ahead else None

    def _serve(self) -> None:
        link = Link(self._server)
        while call := self._next():
            self._settle(call, partial(self._generate, link))
        link.close()

    def _next(self) -> Call | None:
        with self._lock:
            self._work.wait_for(lambda: self._waiting or self._closed)
            if self._closed:
                return None
            call = self._waiting.popleft()
            self._started += 1
            self._queued += time.monotonic() - call.submitted
            return call

    def _settle(self, call: Call, generate: Callable[[Call], Generation]) -> None:
        """Resolve the future by what ``generate`` makes of the call, whatever that is."""
        generation, error = None, None
        try:
            generation = generate(call)
        except GPTQueueError as known:
            error = known
        except Exception:
            # A bug of ours, or of the server's: nobody may wait for ever.
            log.exception("engine.call_failed")
            error = EngineFailed()
        with self._lock:
            self._calls.pop(call.request.id, None)
            self._generated += generation.completion_tokens if generation else 0
            self._prefilled += generation.prompt_tokens if generation else 0
        if generation is not None:
            call.future.set_result(generation)
        else:
            call.future.set_exception(error)

    def _interrupted(self, call: Call) -> Generation:
        """What has come so far; raises EngineClosed when that is why it ends."""
        if call.reason is None:
            raise EngineClosed
        call.tell()
        return call.generation(call.reason)

    def _generate(self, link: Link, call: Call) -> Generation:
        breaks, pause = 0, FIRST_PAUSE
        while not call.interrupted:
            try:
                return self._attempt(call, link)
            except (ServerAway, ServerBroke) as error:
                if call.interrupted:
                    break
                breaks += isinstance(error, ServerBroke)
                self._report(str(error))
                if call.told or breaks >= MOST_BREAKS:
                    raise EngineLost(
                        f"The model's server did not end its answer: {error}"
                    ) from error
            call.restart()
            call.wait(pause)
            pause = min(2 * pause, LONGEST_PAUSE)
        return self._interrupted(call)

    def _attempt(self, call: Call, link: Link) -> Generation:
        call.use(link)
        try:
            link.connect()
            if call.interrupted:
                raise ServerBroke("The request was interrupted.")
            return self._answer(call, link)
        except BaseException:
            link.close()  # what is left of the answer would come first
            raise
        finally:
            call.use(None)

    def _answer(self, call: Call, link: Link) -> Generation:
        body = protocol.body(call.request, self._model)
        response = link.ask("POST", protocol.endpoint(call.request), body=body)
        if response.status != HTTPStatus.OK:
            raise protocol.trouble(response.status, wire.body(response))
        for event in wire.events(response):
            call.read(call.answer.take(event))
        if call.answer.finish is None:
            raise ServerBroke("The answer broke off.")
        self._report("")
        call.tell()
        return call.generation(call.answer.finish)

    def _report(self, problem: str) -> None:
        with self._lock:
            changed = problem != self._problem
            self._problem = problem
        if changed and problem:
            log.warning("engine.server_trouble", problem=problem)
        elif changed:
            log.info("engine.server_back")

    def _publish(self, delta: Delta) -> None:
        with self._publishing:
            self._publisher([delta])
