import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from app.errors import (
    ContextLengthExceeded,
    EngineClosed,
    EngineFailed,
    InvalidRequest,
    ModelLoadFailed,
)
from workers.engines.base import Delta, FinishReason, Generation, Message, Request, Sampling
from workers.engines.fake import FakeEngine
from workers.engines.fake_behaviour import FakeBehaviour
from workers.engines.fake_words import WORDS


@contextmanager
def engine(slots: int = 4, context_length: int = 100, **behaviour: Any) -> Iterator[FakeEngine]:
    fake = FakeEngine(
        behaviour=FakeBehaviour(**behaviour), context_length=context_length, slots=slots
    )
    try:
        yield fake
    finally:
        fake.close()


def request(id: str = "1", max_tokens: int = 50, seed: int | None = 1, **more: Any) -> Request:
    named = {
        name: more.pop(name)
        for name in ("stop", "stop_token_ids", "logprobs", "json_schema")
        if name in more
    }
    sampling = Sampling(seed=seed, **named)
    more.setdefault("prompt", "say something nice")
    return Request(id=id, max_tokens=max_tokens, sampling=sampling, **more)


def ask(fake: FakeEngine, **parameters: Any) -> Generation:
    return fake.submit(request(**parameters)).result(timeout=5)


def test_a_request_is_streamed_from_the_beginning_once_somebody_asks() -> None:
    told: list[Delta] = []
    fake = FakeEngine(
        behaviour=FakeBehaviour(tokens_per_second=100, answer_tokens=30),
        context_length=100,
        slots=4,
        publish=told.extend,
    )
    silent, loud = fake.submit(request("a")), fake.submit(request("b", stop=("the every",)))
    time.sleep(0.05)
    fake.stream("b")
    fake.stream("nobody")
    text = loud.result(timeout=5).text
    silent.result(timeout=5)
    fake.close()
    assert "".join(delta.text for delta in told) == text
    assert {delta.request_id for delta in told} == {"b"}
    assert len(told) > 2


def test_the_same_prompt_and_seed_give_the_same_text() -> None:
    with engine() as fake:
        assert ask(fake) == ask(fake)
        assert ask(fake) != ask(fake, seed=2)
        assert ask(fake) != ask(fake, prompt="something else")


def test_a_word_is_a_token_in_prompt_and_answer() -> None:
    chat = [Message("system", "be kind"), Message("user", "hello there\nyou")]
    with engine() as fake:
        answer = ask(fake, prompt=None, messages=chat)
    assert answer.prompt_tokens == 5
    assert answer.completion_tokens == len(answer.text.split())


def test_max_tokens_and_the_context_end_an_answer_by_length() -> None:
    with engine(answer_tokens=20, context_length=13) as fake:
        short = ask(fake, max_tokens=4)
        full = ask(fake)
    assert (short.completion_tokens, short.finish_reason) == (4, FinishReason.LENGTH)
    assert (full.completion_tokens, full.finish_reason) == (10, FinishReason.LENGTH)


def test_an_answer_of_its_natural_length_ends_by_stop() -> None:
    with engine(answer_tokens=20) as fake:
        answer = ask(fake)
    assert (answer.completion_tokens, answer.finish_reason) == (20, FinishReason.STOP)


def test_the_text_ends_before_a_stop_string() -> None:
    with engine(answer_tokens=20) as fake:
        words = ask(fake).text.split()
        stopped = ask(fake, stop=(f" {words[3]}",))
    assert stopped.text.split() == words[: words.index(words[3], 1)]
    assert stopped.finish_reason is FinishReason.STOP
    assert stopped.completion_tokens == len(stopped.text.split()) + 1


def test_a_stop_token_ends_an_answer_like_its_natural_end() -> None:
    with engine(answer_tokens=20) as fake:
        words = ask(fake).text.split()
        last = words[3]
        stopped = ask(fake, stop_token_ids=(WORDS.index(last), 10_000))
    assert stopped.text.split() == words[: words.index(last)]
    assert stopped.finish_reason is FinishReason.STOP
    assert stopped.completion_tokens == words.index(last)


def test_logprobs_belong_to_every_token_and_are_the_same_each_time() -> None:
    with engine(answer_tokens=20) as fake:
        answer = ask(fake, logprobs=True)
        assert answer == ask(fake, logprobs=True)
        assert ask(fake).logprobs is None
    assert answer.logprobs is not None
    assert "".join(each.token for each in answer.logprobs) == answer.text
    assert {len(each.top) for each in answer.logprobs} == {5}


def test_a_schema_is_refused() -> None:
    with engine() as fake, pytest.raises(InvalidRequest, match="cannot constrain its output"):
        ask(fake, json_schema="{}")


def test_a_prompt_that_fills_the_context_is_refused() -> None:
    with engine(context_length=3) as fake, pytest.raises(ContextLengthExceeded, match="3 tokens"):
        ask(fake)


def test_tokens_per_second_set_the_pace() -> None:
    with engine(tokens_per_second=100, answer_tokens=20) as fake:
        started = time.monotonic()
        ask(fake)
        assert 0.2 <= time.monotonic() - started < 1


def test_more_requests_than_slots_wait_for_one() -> None:
    with engine(slots=1, tokens_per_second=200, answer_tokens=20) as fake:
        futures = [fake.submit(request(id=str(n))) for n in range(3)]
        stats = fake.stats()
        assert (stats.running, stats.waiting) == (1, 2)
        started = time.monotonic()
        assert all(future.result(timeout=5) for future in futures)
        assert time.monotonic() - started >= 0.25
        assert fake.stats().generated_tokens == 60


def test_a_cancelled_request_keeps_what_it_has() -> None:
    with engine(tokens_per_second=100, answer_tokens=1000, context_length=2000) as fake:
        future = fake.submit(request(max_tokens=1000))
        time.sleep(0.1)
        fake.cancel("1")
        answer = future.result(timeout=30)
        fake.cancel("1")
    assert answer.finish_reason is FinishReason.CANCELLED
    assert 5 <= answer.completion_tokens < 100
    assert answer.prompt_tokens == 3


def test_a_request_cancelled_before_its_turn_used_nothing() -> None:
    with engine(slots=1, hang_every=1) as fake:
        fake.submit(request(id="1"))
        waiting = fake.submit(request(id="2"))
        fake.cancel("2")
        answer = waiting.result(timeout=30)
    assert (answer.prompt_tokens, answer.completion_tokens, answer.text) == (0, 0, "")


def test_a_deadline_ends_requests_that_run_and_that_wait() -> None:
    with engine(slots=1, hang_every=1) as fake:
        deadline = time.monotonic() + 0.1
        futures = [fake.submit(request(id=str(n), deadline=deadline)) for n in range(2)]
        reasons = {future.result(timeout=30).finish_reason for future in futures}
    assert reasons == {FinishReason.DEADLINE}


def test_every_nth_request_fails() -> None:
    with engine(fail_every=3) as fake:
        futures = [fake.submit(request(id=str(n))) for n in range(6)]
        failed = [isinstance(future.exception(timeout=30), EngineFailed) for future in futures]
    assert failed == [False, False, True, False, False, True]


def test_every_nth_request_hangs_until_the_engine_closes() -> None:
    with engine(hang_every=2) as fake:
        assert ask(fake)
        hanging = fake.submit(request(id="2"))
        time.sleep(0.05)
        assert not hanging.done()
    with pytest.raises(EngineClosed):
        hanging.result(timeout=30)


def test_thousands_of_requests_need_one_thread() -> None:
    with engine(slots=5000, tokens_per_second=100, answer_tokens=30) as fake:
        before = threading.active_count()
        futures = [fake.submit(request(id=str(n))) for n in range(3000)]
        assert threading.active_count() <= before  # those of earlier tests may end meanwhile
        assert all(future.result(timeout=60) for future in futures)


def test_the_catalog_source_sets_the_behaviour() -> None:
    parsed = FakeBehaviour.parse("fake:tokens_per_second=2.5&hang_every=7")
    assert parsed == FakeBehaviour(tokens_per_second=2.5, hang_every=7)
    assert FakeBehaviour.parse("fake") == FakeBehaviour.parse("fake:") == FakeBehaviour()


@pytest.mark.parametrize("source", ["fake:speed=1", "fake:fail_every=often", "fake:fail_at_load=1"])
def test_a_source_that_cannot_be_followed_fails_to_load(source: str) -> None:
    with pytest.raises(ModelLoadFailed):
        FakeBehaviour.parse(source)
