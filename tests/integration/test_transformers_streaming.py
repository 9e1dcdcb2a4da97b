"""The transformers engine's streams, log-probabilities and the parameters beyond the plain ones."""

import itertools
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from transformers import PreTrainedTokenizerFast

from tests.integration import tiny
from workers.engines.base import Delta, FinishReason, Generation, Request, Sampling
from workers.engines.logprobs import TokenTexts
from workers.engines.native.wire import Logprobs
from workers.engines.transformers.engine import TransformersEngine
from workers.engines.transformers.row import Row

CONTEXT = 120
SLOTS = 4
PROMPTS = ["the quick", tiny.PANGRAM, "fox " * 20, "a", "jumps over", "lazy"]

tokenizer = pytest.fixture(tiny.tokenizer, scope="module")
model = pytest.fixture(tiny.llama, scope="module")


class Reader:
    """Keeps what a publisher is told, and whether the request was over by then."""

    def __init__(self) -> None:
        self.steps: list[Sequence[Delta]] = []
        self.told = threading.Event()
        self.over: Callable[[], bool] = lambda: False
        self.late = 0

    def __call__(self, deltas: Sequence[Delta]) -> None:
        self.steps.append(deltas)
        self.late += self.over()
        self.told.set()

    def of(self, id: str) -> list[Delta]:
        return [delta for step in self.steps for delta in step if delta.request_id == id]


@pytest.fixture
def reader() -> Reader:
    return Reader()


@pytest.fixture
def engine(
    model: Any, tokenizer: PreTrainedTokenizerFast, reader: Reader
) -> Iterator[TransformersEngine]:
    engine = TransformersEngine(
        model=model, tokenizer=tokenizer, context_length=CONTEXT, slots=SLOTS, publish=reader
    )
    yield engine
    engine.close()


def request(id: str, prompt: str = "the quick", *, stream: bool = False, **more: Any) -> Request:
    more.setdefault("temperature", 0)
    tokens = more.pop("max_tokens", 30)
    return Request(id, tokens, prompt=prompt, sampling=Sampling(**more), stream=stream)


def ask(engine: TransformersEngine, **more: Any) -> Generation:
    return engine.submit(request("one", **more)).result(timeout=30)


def named(tokenizer: PreTrainedTokenizerFast) -> dict[str, int]:
    """The tokens by their text."""
    return {tokenizer.decode([token]): token for token in range(len(tokenizer))}


@pytest.mark.parametrize("parameters", [{}, {"stop": ("e", "zz")}, {"temperature": 1, "seed": 3}])
def test_the_deltas_of_every_stream_add_up_to_its_text(
    engine: TransformersEngine, reader: Reader, parameters: dict[str, Any]
) -> None:
    futures = {
        str(number): engine.submit(request(str(number), prompt, stream=True, **parameters))
        for number, prompt in enumerate(PROMPTS)
    }
    for id, future in futures.items():
        answer = future.result(timeout=30)
        deltas = reader.of(id)
        assert "".join(delta.text for delta in deltas) == answer.text
        counts = [delta.tokens for delta in deltas]
        assert counts == sorted(set(counts))
        assert all(delta.text for delta in deltas)
        assert not counts or counts[-1] <= answer.completion_tokens


def test_text_is_told_while_it_grows_and_before_the_answer(
    engine: TransformersEngine, reader: Reader
) -> None:
    futures = []
    reader.over = lambda: any(future.done() for future in futures)
    futures.append(engine.submit(request("one", stream=True, max_tokens=60)))
    answer = futures[0].result(timeout=30)
    assert len(reader.of("one")) >= 60 // 8
    assert reader.of("one")[-1].tokens == answer.completion_tokens
    assert reader.late == 0


def test_who_does_not_stream_is_not_told_about(engine: TransformersEngine, reader: Reader) -> None:
    answers = [engine.submit(request(str(n), stream=n == 1)) for n in range(3)]
    assert all(answer.result(timeout=30).text for answer in answers)
    assert {delta.request_id for step in reader.steps for delta in step} == {"1"}


def test_a_stream_that_is_cancelled_has_all_of_its_text(
    engine: TransformersEngine, reader: Reader
) -> None:
    future = engine.submit(request("one", stream=True, max_tokens=CONTEXT))
    assert reader.told.wait(timeout=30)
    engine.cancel("one")
    answer = future.result(timeout=30)
    assert "".join(delta.text for delta in reader.of("one")) == answer.text


def test_a_request_is_streamed_from_the_beginning_once_somebody_asks(
    engine: TransformersEngine, reader: Reader
) -> None:
    def ask_for_another() -> bool:
        engine.stream("late")
        engine.stream("nobody")
        return False

    reader.over = ask_for_another
    first = engine.submit(request("first", stream=True, max_tokens=60))
    late = engine.submit(request("late", max_tokens=60))
    assert first.result(timeout=30).text
    text = late.result(timeout=30).text
    mine = reader.of("late")
    assert "".join(delta.text for delta in mine) == text
    assert len(mine) > 3


def test_a_publisher_that_fails_stops_nobody(model: Any, tokenizer: Any) -> None:
    def fails(_: Sequence[Delta]) -> None:
        raise OSError("the reader is gone")

    engine = TransformersEngine(
        model=model, tokenizer=tokenizer, context_length=CONTEXT, slots=1, publish=fails
    )
    answers = [ask(engine, stream=True), ask(engine, stream=True)]
    engine.close()
    assert answers[0] == answers[1]


def test_log_probabilities_are_those_of_the_model(
    engine: TransformersEngine, model: Any, tokenizer: PreTrainedTokenizerFast
) -> None:
    beside = engine.submit(request("beside", tiny.PANGRAM, temperature=1))
    answer = ask(engine, logprobs=True, temperature=1.5, seed=1, top_k=20, repetition_penalty=1.2)
    assert beside.result(timeout=30).logprobs is None
    assert len(answer.logprobs) == answer.completion_tokens == 30
    # As far as the texts tell the tokens: one that is part of a character does not.
    known = list(itertools.takewhile(lambda each: each.token.isascii(), answer.logprobs))
    assert known
    vocabulary = named(tokenizer)
    sequence = list(tokenizer("the quick").input_ids)
    for each in known:
        with torch.inference_mode():
            scores = model(torch.tensor([sequence])).logits[0, -1].log_softmax(-1)
        token, best = vocabulary[each.token], scores.topk(5).values.tolist()
        assert each.logprob == pytest.approx(float(scores[token]), abs=1e-4)
        assert [value for _, value in each.top] == pytest.approx(best, abs=1e-4)
        sequence.append(token)


def test_log_probabilities_end_with_the_text(engine: TransformersEngine) -> None:
    whole = ask(engine).text
    answer = ask(engine, logprobs=True, stop=(whole[5:8],))
    assert answer.finish_reason is FinishReason.STOP
    assert len(answer.logprobs) == answer.completion_tokens < 30


def test_a_token_behind_the_stop_string_has_no_log_probability() -> None:
    # The first token has the stop string and begins a character, which the second one ends.
    parts = [b"x END\xf0", b"\x9f\x99\x82"]

    class Parts:
        def decode(self, tokens: list[int], **_: object) -> str:
            return b"".join(parts[token] for token in tokens).decode(errors="replace")

    asked = request("one", stop=("END",), logprobs=True)
    row = Row(request=asked, prompt=[0], limit=9, tokenizer=Parts())
    logprobs = Logprobs(np.zeros(1), np.zeros((1, 5), dtype=np.int32), np.zeros((1, 5)))
    reasons = []
    for token in (0, 1):
        reasons.append(row.accept(token, frozenset()))
        row.note(logprobs, TokenTexts(Parts()))
    assert reasons == [None, FinishReason.STOP]
    row.finish(FinishReason.STOP)
    answer = row.future.result()
    assert (answer.completion_tokens, len(answer.logprobs)) == (1, 1)


def test_a_stop_token_ends_the_text_and_is_not_counted(
    engine: TransformersEngine, tokenizer: PreTrainedTokenizerFast
) -> None:
    chosen = [each.token for each in ask(engine, logprobs=True).logprobs]
    readable = next(text for text in chosen[3:] if text.isascii())
    answer = ask(engine, stop_token_ids=(named(tokenizer)[readable],))
    assert answer.finish_reason is FinishReason.STOP
    assert answer.completion_tokens == chosen.index(readable)


def test_a_presence_penalty_lets_no_token_come_twice(engine: TransformersEngine) -> None:
    futures = [
        engine.submit(request(str(n), prompt, presence_penalty=1000.0, logprobs=True))
        for n, prompt in enumerate(PROMPTS)
    ]
    for future in futures:
        tokens = [each.token for each in future.result(timeout=30).logprobs]
        readable = [token for token in tokens if token.isascii()]
        assert len(set(readable)) == len(readable) > 0


def test_min_p_of_almost_one_is_greedy(engine: TransformersEngine) -> None:
    assert ask(engine, temperature=1, min_p=0.9999).text == ask(engine).text


def test_a_slot_that_had_penalties_has_none_for_the_next_request(
    engine: TransformersEngine,
) -> None:
    greedy = ask(engine).text
    penalized = {"presence_penalty": 1000.0, "max_tokens": 50}
    for future in [engine.submit(request(str(n), **penalized)) for n in range(SLOTS)]:
        assert future.result(timeout=30).text
    beside = engine.submit(request("beside", **penalized))
    nearly_greedy = engine.submit(request("one", temperature=1e-6))
    assert nearly_greedy.result(timeout=30).text == greedy
    assert beside.result(timeout=30).text
