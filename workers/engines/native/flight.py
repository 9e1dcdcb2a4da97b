"""The requests that are in the engine, and what its messages mean to them."""

import threading
import time
from dataclasses import dataclass, field

import structlog

from app.errors import EngineClosed, EngineFailed, EngineLost
from app.logs import frames
from workers.engines.base import Delta
from workers.engines.native import wire
from workers.engines.native.answers import Answer

log = structlog.get_logger(__name__)

RESTARTING = "The engine's process died before this job had its turn; another worker takes it over."


@dataclass(slots=True)
class News:
    """What one message brought: who is over, whom the engine must be told to end, new text."""

    over: list[Answer] = field(default_factory=list)
    stopped: list[int] = field(default_factory=list)  # keys
    deltas: list[Delta] = field(default_factory=list)


class Flight:
    """Answers by key and by request id. Any thread may add and find; one thread takes news."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._answers: dict[int, Answer] = {}
        self._keys: dict[str, int] = {}
        self._last_key = 0
        self._taken = 0

    def __len__(self) -> int:
        """How many are in flight."""
        return len(self._answers)

    def add(self, answer: Answer) -> int:
        """Note a request; its key, higher than all before. Raises EngineFailed if it is there."""
        with self._lock:
            if answer.request.id in self._keys:
                raise EngineFailed("A request with this id is in flight already.")
            self._last_key += 1
            self._keys[answer.request.id] = self._last_key
            self._answers[self._last_key] = answer
            return self._last_key

    def key_of(self, request_id: str) -> int | None:
        """The key of a request in flight."""
        return self._keys.get(request_id)

    def stream(self, request_id: str) -> tuple[int, int] | None:
        """From now on there is a delta whenever this request has new text.

        Its key, and what is its Job.every now; None if it is not in flight.
        """
        with self._lock:
            key = self._keys.get(request_id)
            if key is None:
                return None
            self._answers[key].streams = True
            return key, self._answers[key].every

    def read(self, progress: wire.Progress) -> News:
        """What a message means; those who are over are in flight no more."""
        self._taken = max(self._taken, progress.taken)
        news = News()
        begin = 0
        for key, count in zip(progress.keys.tolist(), progress.counts.tolist(), strict=True):
            tokens = progress.tokens[begin : begin + count].tolist()
            begin += count
            self._push(news, key, tokens=tokens, logprobs=progress.logprobs.get(key))
        for end in progress.ends:
            self._end(news, end)
        return news

    def empty(self, error: EngineClosed | EngineLost) -> list[Answer]:
        """Everybody is over, with this error; but whom the process had not taken it cannot lose."""
        with self._lock:
            answers, self._answers, self._keys = self._answers, {}, {}
        for key, answer in answers.items():
            waited = isinstance(error, EngineLost) and key > self._taken
            answer.fail(EngineClosed(RESTARTING) if waited else error)
        return list(answers.values())

    def _push(
        self, news: News, key: int, *, tokens: list[int], logprobs: wire.Logprobs | None
    ) -> None:
        answer = self._answers.get(key)
        if answer is None:
            return  # a stop string ended it before the engine knew
        try:
            stopped = answer.push(tokens, logprobs)
            if answer.streams:
                self._add_delta(news, answer)
        except Exception as error:
            # Whatever the tokenizer's library raises: it must end this request, and no other.
            _tokenizer_failed(answer, error)
            stopped = True
        if stopped:
            news.stopped.append(key)
            self._over(news, key)

    def _end(self, news: News, end: wire.End) -> None:
        answer = self._answers.get(end.key)
        if answer is None:
            return
        try:
            answer.end(end)
            if answer.streams:
                self._add_delta(news, answer)
        except Exception as error:
            _tokenizer_failed(answer, error)
        self._over(news, end.key)

    def _add_delta(self, news: News, answer: Answer) -> None:
        delta = answer.delta(time.monotonic())
        if delta is not None:
            news.deltas.append(delta)

    def _over(self, news: News, key: int) -> None:
        with self._lock:
            answer = self._answers.pop(key, None)
            if answer is None:
                return  # the engine was closed meanwhile
            del self._keys[answer.request.id]
        news.over.append(answer)


def _tokenizer_failed(answer: Answer, error: Exception) -> None:
    # Without its words, which can quote the text.
    log.error("engine.text_failed", error=type(error).__name__, frames=frames(error))
    answer.fail(EngineFailed("The model's tokenizer cannot turn this answer into text."))
