"""One request on its way to the server and back; and its text on the way to who reads along."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future

from workers.engines.base import (
    GROUP_SECONDS,
    GROUP_TOKENS,
    Delta,
    FinishReason,
    Generation,
    Request,
)
from workers.engines.openai.link import Link
from workers.engines.openai.protocol import Answer


class Call:
    """A request, its answer so far and the future that waits for it.

    One thread works on it; ``interrupt`` may come from any.
    """

    def __init__(self, request: Request, publish: Callable[[Delta], None]) -> None:
        self.request = request
        self.answer = Answer()
        self.future: Future[Generation] = Future()
        # From now on the future cannot be cancelled behind the engine's back.
        self.future.set_running_or_notify_cancel()
        self.submitted = time.monotonic()
        self.streams = request.stream
        self.told = False  # whether somebody has seen some of the answer
        self.reason: FinishReason | None = None
        self._publish = publish
        self._lock = threading.Lock()
        self._interrupted = threading.Event()
        self._link: Link | None = None
        self._untold: list[str] = []
        self._told_tokens = 0
        self._told_at = 0.0

    @property
    def overdue(self) -> bool:
        """Whether its deadline has passed."""
        deadline = self.request.deadline
        return deadline is not None and time.monotonic() >= deadline

    @property
    def interrupted(self) -> bool:
        """Whether it is to end before it is done."""
        return self._interrupted.is_set()

    def interrupt(self, reason: FinishReason | None) -> None:
        """End it now, for this reason; None when the engine closes. The first one counts."""
        with self._lock:
            if not self.interrupted:
                self.reason = reason
                self._interrupted.set()
            if self._link is not None:
                self._link.cut()

    def wait(self, seconds: float) -> None:
        """Do nothing for so long, or until it is interrupted."""
        self._interrupted.wait(seconds)

    def use(self, link: Link | None) -> None:
        """From now on an interruption cuts this link; None: no more."""
        with self._lock:
            self._link = link

    def restart(self) -> None:
        """Forget what came of an answer that broke off; nobody has seen it."""
        self.answer = Answer()
        self._untold.clear()

    def read(self, text: str) -> None:
        """Some text has come; tell it in groups of 8 tokens or 50 ms."""
        self._untold.append(text)
        if not self.streams:
            return
        fresh = self.answer.completion_tokens - self._told_tokens
        if fresh >= GROUP_TOKENS or time.monotonic() >= self._told_at + GROUP_SECONDS:
            self.tell()

    def tell(self) -> None:
        """Publish the text that nobody has seen yet."""
        text = "".join(self._untold) if self.streams else ""
        if not text:
            return
        self._untold.clear()
        self.told = True
        self._told_at = time.monotonic()
        self._told_tokens = self.answer.completion_tokens
        self._publish(Delta(self.request.id, text, self._told_tokens))

    def generation(self, reason: FinishReason) -> Generation:
        """What became of the request."""
        return self.answer.generation(reason, logprobs=self.request.sampling.logprobs)
