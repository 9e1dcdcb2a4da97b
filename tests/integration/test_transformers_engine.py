import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from app.errors import ContextLengthExceeded, EngineClosed, EngineFailed, EngineLost, InvalidRequest
from tests.integration import tiny
from workers.engines.base import FinishReason, Generation, Message, Request, Sampling
from workers.engines.transformers.engine import TransformersEngine

CONTEXT = 120
SLOTS = 4
# Prompts and completions of very different lengths, so that rows join and leave all the time.
JOBS = [("the quick", 40), (tiny.PANGRAM, 3), ("fox " * 20, 25), ("a", 33), ("jumps over", 1)]
JOBS += [("lazy", 18), (tiny.PANGRAM + "the dog", 9), ("hello world, how", 30)]


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    return tiny.tokenizer()


@pytest.fixture(scope="session")
def model() -> Any:
    return tiny.llama()


def start(
    model: Any, tokenizer: PreTrainedTokenizerFast, slots: int = SLOTS, **how: Any
) -> TransformersEngine:
    return TransformersEngine(
        model=model, tokenizer=tokenizer, context_length=CONTEXT, slots=slots, **how
    )


@pytest.fixture
def engine(model: Any, tokenizer: PreTrainedTokenizerFast) -> Iterator[TransformersEngine]:
    engine = start(model, tokenizer)
    yield engine
    engine.close()


def request(id: str, prompt: str = "the quick", max_tokens: int = 20, **more: Any) -> Request:
    own = {name: more.pop(name) for name in ("deadline", "messages") if name in more}
    more.setdefault("temperature", 0)
    return Request(
        id=id,
        prompt=None if "messages" in own else prompt,
        max_tokens=max_tokens,
        sampling=Sampling(**more),
        **own,
    )


def ask(engine: TransformersEngine, **parameters: Any) -> Generation:
    return engine.submit(request("one", **parameters)).result(timeout=30)


def alone(model: Any, tokenizer: Any, prompt: str, max_tokens: int) -> list[int]:
    """The tokens that transformers itself generates for this prompt."""
    ids = tokenizer(prompt, return_tensors="pt").input_ids
    with torch.inference_mode():
        out = model.generate(ids, max_new_tokens=max_tokens, do_sample=False, pad_token_id=0)
    return [token for token in out[0, ids.shape[1] :].tolist() if token != 0]


def test_a_schema_is_refused(engine: TransformersEngine) -> None:
    with pytest.raises(InvalidRequest, match="cannot constrain its output"):
        ask(engine, json_schema="{}")


# Exact equality holds because float32 keeps the order of the two best logits of these random
# models; in bfloat16 batches of different sizes may part ways.
@pytest.mark.parametrize("kind", [tiny.llama, tiny.mistral, tiny.gemma3])
def test_rows_that_join_and_leave_get_what_generate_gives_them_alone(
    kind: Any, tokenizer: PreTrainedTokenizerFast
) -> None:
    model = kind()
    generated = [alone(model, tokenizer, prompt, tokens) for prompt, tokens in JOBS]
    assert len({token for tokens in generated for token in tokens}) > 20
    texts = [tokenizer.decode(tokens).rstrip("\N{REPLACEMENT CHARACTER}") for tokens in generated]
    engine = start(model, tokenizer)
    futures = []
    for number, (prompt, tokens) in enumerate(JOBS):
        futures.append(engine.submit(request(str(number), prompt, tokens)))
        time.sleep(0.004)
    answers = [future.result(timeout=30) for future in futures]
    engine.close()
    assert [answer.text for answer in answers] == texts
    assert [answer.completion_tokens for answer in answers] == list(map(len, generated))


def test_rows_decode_together(engine: TransformersEngine) -> None:
    futures = [engine.submit(request(str(number), max_tokens=30)) for number in range(SLOTS)]
    assert all(future.result(timeout=30) for future in futures)
    stats = engine.stats()
    assert stats.generated_tokens == SLOTS * 30
    assert stats.steps < 2 * 30


def test_more_requests_than_slots_wait_their_turn(
    model: Any, tokenizer: PreTrainedTokenizerFast
) -> None:
    engine = start(model, tokenizer, slots=1)
    done: list[str] = []
    futures = [engine.submit(request(str(number), max_tokens=10)) for number in range(4)]
    for number, future in enumerate(futures):
        future.add_done_callback(lambda _, number=number: done.append(str(number)))
    for future in futures:
        future.result(timeout=30)
    engine.close()
    assert done == ["0", "1", "2", "3"]
    assert engine.stats().steps == 40


def test_a_cancelled_request_keeps_its_text_and_frees_its_slot(
    model: Any, tokenizer: PreTrainedTokenizerFast
) -> None:
    engine = start(model, tokenizer, slots=1)
    running = engine.submit(request("running", max_tokens=CONTEXT))
    waiting = engine.submit(request("waiting", max_tokens=3))
    cancelled = engine.submit(request("cancelled", max_tokens=3))
    engine.cancel("cancelled")
    wait_for(lambda: engine.stats().generated_tokens >= 5)
    engine.cancel("running")
    engine.cancel("unknown")
    partial, unused = running.result(timeout=5), cancelled.result(timeout=5)
    assert partial.finish_reason is unused.finish_reason is FinishReason.CANCELLED
    assert 5 <= partial.completion_tokens < CONTEXT - 10
    assert partial.text
    assert (unused.prompt_tokens, unused.completion_tokens, unused.text) == (0, 0, "")
    assert waiting.result(timeout=5).completion_tokens == 3
    engine.close()


def test_a_deadline_ends_a_request_between_two_steps(engine: TransformersEngine) -> None:
    late = ask(engine, deadline=time.monotonic())
    assert (late.finish_reason, late.completion_tokens) == (FinishReason.DEADLINE, 0)
    in_time = ask(engine, deadline=time.monotonic() + 60)
    assert in_time.finish_reason is FinishReason.LENGTH


def test_a_prompt_that_does_not_fit_fails_alone(engine: TransformersEngine) -> None:
    good = engine.submit(request("good"))
    bad = engine.submit(request("bad", prompt="fox " * 200))
    assert isinstance(bad.exception(timeout=5), ContextLengthExceeded)
    assert good.result(timeout=30).completion_tokens == 20


def test_the_context_bounds_the_completion(engine: TransformersEngine) -> None:
    answer = ask(engine, max_tokens=10_000)
    assert answer.prompt_tokens + answer.completion_tokens == CONTEXT
    assert answer.finish_reason is FinishReason.LENGTH


def test_an_end_of_text_token_ends_the_text_and_is_not_counted(
    model: Any, tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = alone(model, tokenizer, "the quick", 6)
    monkeypatch.setattr(model.generation_config, "eos_token_id", [0, tokens[3]])
    engine = start(model, tokenizer)
    answer = ask(engine, max_tokens=6)
    engine.close()
    assert answer.finish_reason is FinishReason.STOP
    assert answer.completion_tokens == tokens.index(tokens[3])


def test_a_stop_string_ends_the_text_before_it(engine: TransformersEngine) -> None:
    whole = ask(engine).text
    answer = ask(engine, stop=(whole[5:8], "never"))
    assert answer.text == whole[: whole.find(whole[5:8])]
    assert answer.finish_reason is FinishReason.STOP


def test_in_float32_a_seed_gives_the_same_text_also_beside_others(
    engine: TransformersEngine,
) -> None:
    seeded = {"temperature": 1.5, "seed": 42, "top_p": 0.95, "max_tokens": 15}
    first = ask(engine, **seeded)
    others = [engine.submit(request(str(n), tiny.PANGRAM, temperature=1.5)) for n in range(3)]
    assert ask(engine, **seeded) == first
    assert ask(engine, **{**seeded, "seed": 43}).text != first.text
    assert all(other.result(timeout=30) for other in others)


def test_chat_goes_through_the_template(engine: TransformersEngine, tokenizer: Any) -> None:
    answer = ask(engine, messages=[Message("user", "hello")])
    assert answer.prompt_tokens == len(tokenizer("user: hello\nassistant: ").input_ids)
    refused = engine.submit(request("two", messages=[Message("system", "be kind")]))
    assert "no system role" in str(refused.exception(timeout=5))


def test_without_a_chat_template_chat_fails_clearly(
    model: Any, tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokenizer, "chat_template", None)
    engine = start(model, tokenizer)
    refused = engine.submit(request("one", messages=[Message("user", "hello")]))
    engine.close()
    assert "no chat template" in str(refused.exception(timeout=5))


def failing(engine: TransformersEngine, error: Exception) -> "Future[Generation]":
    """Submit a request whose third forward pass raises ``error``."""
    forward, passes = engine._forward._model, iter(range(100))

    def third_fails(**inputs: Any) -> Any:
        if next(passes) == 2:
            raise error
        return forward(**inputs)

    engine._forward._model = third_fails
    return engine.submit(request("failing", prompt="a secret"))


def test_a_failing_forward_fails_its_batch_and_the_engine_goes_on(
    engine: TransformersEngine, capsys: pytest.CaptureFixture[str]
) -> None:
    failed = failing(engine, RuntimeError("broken kernel")).exception(timeout=5)
    assert isinstance(failed, EngineFailed)
    assert "broken" not in str(failed)
    assert ask(engine).completion_tokens == 20
    logged = capsys.readouterr()
    assert "secret" not in logged.out + logged.err


def test_running_out_of_memory_is_told_as_such(engine: TransformersEngine) -> None:
    failed = failing(engine, torch.OutOfMemoryError("no memory")).exception(timeout=5)
    assert "out of memory" in str(failed)
    assert isinstance(failed, EngineLost)  # so it is tried again, perhaps where there is more
    assert ask(engine).completion_tokens == 20


def test_jobs_of_a_lost_gpu_are_answered_though_nothing_can_be_released_on_it(
    engine: TransformersEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost = RuntimeError("CUDA error: unspecified launch failure")

    def release(slot: int) -> None:
        raise lost

    monkeypatch.setattr(engine._sampler, "release", release)
    assert type(failing(engine, lost).exception(timeout=5)) is EngineLost


@pytest.fixture
def hanging(model: Any, tokenizer: PreTrainedTokenizerFast) -> Iterator[TransformersEngine]:
    """An engine whose next step takes until the end of the test."""
    engine = start(model, tokenizer, stall_seconds=0.2)
    forward, over = engine._forward._model, threading.Event()

    def hang(**inputs: Any) -> Any:
        over.wait(60)
        return forward(**inputs)

    engine._forward._model = hang
    yield engine
    over.set()
    engine._thread.join(60)
    engine._forward._model = forward


def test_a_step_that_hangs_ends_the_engine_and_its_jobs_are_lost(
    hanging: TransformersEngine,
) -> None:
    future = hanging.submit(request("hangs"))
    wait_for(hanging._clock.hangs)
    with pytest.raises(EngineClosed, match=r"^A step of the engine hung for 0\.2 s\.$"):
        while hanging.ready():
            time.sleep(0.01)
    assert isinstance(future.exception(timeout=5), EngineLost)
    hanging.close()  # which waits for nothing


def test_closing_does_not_wait_for_a_step_that_hangs(
    hanging: TransformersEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.engines.transformers.engine.CLOSE_SECONDS", 0.1)
    future = hanging.submit(request("hangs"))
    wait_for(lambda: hanging.stats().running)
    hanging.close()
    assert type(future.exception(timeout=5)) is EngineClosed


def test_closing_fails_what_is_in_flight(engine: TransformersEngine) -> None:
    future = engine.submit(request("one", max_tokens=CONTEXT))
    engine.close()
    assert isinstance(future.exception(timeout=5), EngineFailed)
    assert isinstance(engine.submit(request("two")).exception(timeout=5), EngineFailed)


def wait_for(condition: Any) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)
