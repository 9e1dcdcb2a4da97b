"""Clients that send an engine random requests, and check what becomes of each."""

import random
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from concurrent.futures import Future
from threading import Event

from app.errors import ContextLengthExceeded, EngineClosed, EngineLost, InvalidRequest
from tests.integration import tiny
from workers.engines.base import Delta, Engine, Generation, Message, Request, Sampling

PATIENCE_SECONDS = 120.0  # a request that has not ended by then never will
TOO_LONG = tiny.PANGRAM * 50
# By the kind of a request, the errors that may end it; the first two kinds are never answered.
ERRORS: dict[str, tuple[type[Exception], ...]] = {
    "long": (ContextLengthExceeded,),
    "refused": (InvalidRequest,),
    "chat": (EngineLost, EngineClosed),
    "text": (EngineLost, EngineClosed),
}
NEVER_ANSWERED = {"long", "refused"}


class Published:
    """The text that streaming requests were told, by request id."""

    def __init__(self) -> None:
        self.texts: defaultdict[str, str] = defaultdict(str)

    def __call__(self, deltas: Sequence[Delta]) -> None:
        for delta in deltas:
            self.texts[delta.request_id] += delta.text


class Client:
    """Sends a few requests together, waits for them, and sends the next."""

    def __init__(self, engine: Engine, published: Published, *, number: int) -> None:
        """``number`` is the seed of all that it does."""
        self._engine = engine
        self._published = published
        self._chance = random.Random(number)
        self._name = str(number)
        self._sent = 0
        self._seen: Counter[str] = Counter()

    def run(self, over: Event) -> Counter[str]:
        """How its requests ended, until it is over."""
        while not over.is_set():
            if self._engine.ready():
                self._send_some()
            else:
                time.sleep(0.02)
        return self._seen

    def _send_some(self) -> None:
        chance = self._chance
        requests = [self._request() for _ in range(chance.randint(1, 4))]
        futures = [self._engine.submit(each) for each in requests]
        if chance.random() < 0.3:
            time.sleep(chance.random() * 0.05)
            self._engine.cancel(chance.choice(requests).id)
        for request, future in zip(requests, futures, strict=True):
            self._seen[self._outcome(request, future)] += 1

    def _outcome(self, request: Request, future: "Future[Generation]") -> str:
        kind = request.id.split()[0]
        error = future.exception(timeout=PATIENCE_SECONDS)
        told = self._published.texts.pop(request.id, "")
        if error is not None:
            assert isinstance(error, ERRORS[kind]), (request, error)
            return type(error).__name__
        assert kind not in NEVER_ANSWERED, request
        _check(request, future.result(), told)
        return future.result().finish_reason.value

    def _request(self) -> Request:
        chance = self._chance
        self._sent += 1
        (kind,) = chance.choices(list(ERRORS), weights=[1, 1, 4, 14])
        text = TOO_LONG if kind == "long" else tiny.PANGRAM[: chance.randint(1, 60)]
        role = "system" if kind == "refused" else "user"
        soon = time.monotonic() + chance.uniform(-0.01, 0.1)
        return Request(
            id=f"{kind} {self._name} {self._sent}",
            max_tokens=chance.choice([1, 5, 20, 80]),
            prompt=text if kind in ("long", "text") else None,
            messages=[Message(role, text)] if kind in ("refused", "chat") else None,
            sampling=self._sampling(),
            deadline=soon if chance.random() < 0.15 else None,
            stream=chance.random() < 0.5,
        )

    def _sampling(self) -> Sampling:
        choose = self._chance.choice
        return Sampling(
            temperature=choose([0.0, 0.7, 1.5]),
            top_p=choose([1.0, 0.8]),
            top_k=choose([0, 5]),
            min_p=choose([0.0, 0.1]),
            seed=choose([None, 7]),
            stop=choose([(), (), ("e",), ("never seen", "the ")]),
            stop_token_ids=choose([(), (9,)]),
            repetition_penalty=choose([1.0, 1.2]),
            presence_penalty=choose([0.0, 0.5]),
            frequency_penalty=choose([0.0, 0.5]),
            logprobs=choose([False, False, True]),
        )


def _check(request: Request, answer: Generation, told: str) -> None:
    assert answer.completion_tokens <= request.max_tokens, request
    assert not any(stop in answer.text for stop in request.sampling.stop), request
    assert told == (answer.text if request.stream else ""), request
    if request.sampling.logprobs:
        assert answer.logprobs is not None
        assert len(answer.logprobs) == answer.completion_tokens, request
