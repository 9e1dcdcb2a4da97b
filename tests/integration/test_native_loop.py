import random
import time
from typing import Any

import numpy as np
import pytest
import torch

from app.errors import UnknownArchitecture
from tests.integration import tiny
from tests.integration.loops import CONTEXT, Heard, generated, job, loop, prompts, run
from workers.engines.base import FinishReason, Sampling
from workers.engines.breakdown import MemoryGone
from workers.engines.native import models
from workers.engines.native.kernels.reference import ReferenceKernels
from workers.engines.native.loop import Loop
from workers.engines.native.wire import Job

VOCABULARY = len(tiny.tokenizer())
FAMILIES = [
    tiny.llama,
    tiny.mistral,
    tiny.qwen2,
    tiny.qwen3,
    tiny.gemma,
    tiny.gemma2,
    tiny.gemma3,
]


@pytest.fixture(params=[False, True], ids=["in step", "a step ahead"])
def made(request: pytest.FixtureRequest) -> Loop:
    return loop(tiny.llama(), ahead=request.param)


def empty(made: Loop) -> bool:
    """Whether nothing is left behind: no request, no block in use, no slot taken."""
    stats = made.stats()
    free = made._slots.free == made._slots.count
    return (stats.running, stats.waiting, stats.kv_used) == (0, 0, 0) and free


# Exact equality holds because float32 keeps the order of these models' two best logits.
@pytest.mark.parametrize("kernels", ["compiled", "reference"])
@pytest.mark.parametrize("family", FAMILIES)
def test_rows_that_join_leave_and_pause_get_what_generate_gives_them_alone(
    family: Any, kernels: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = family()
    asked = prompts(20, VOCABULARY)
    wanted = [generated(model, *each) for each in asked]
    assert len({token for tokens in wanted for token in tokens}) > 15
    if kernels == "reference":
        monkeypatch.setattr(models, "choose", lambda device, sizes: ReferenceKernels(device))
    made = loop(model, blocks=9)
    waiting = [
        job(number, prompt, limit, every=number % 9) for number, (prompt, limit) in enumerate(asked)
    ]
    chance, heard = random.Random(1), Heard()
    while waiting or made.busy:
        for _ in range(chance.randrange(3)):
            if waiting:
                made.submit(waiting.pop(0))
        heard.take(made.step())
    assert [heard.tokens.get(number, []) for number in range(len(asked))] == wanted
    assert made.stats().preemptions > 0
    assert empty(made)


def test_a_step_ahead_everybody_gets_the_same_up_to_where_it_is_cancelled() -> None:
    model = tiny.llama()
    asked = prompts(60, VOCABULARY, seed=3)
    wanted = [generated(model, *each) for each in asked]
    made = loop(model, blocks=9, ahead=True)
    waiting = [job(number, *each, every=number % 4) for number, each in enumerate(asked)]
    chance, heard = random.Random(2), Heard()
    while waiting or made.busy:
        for _ in range(chance.randrange(3)):
            if waiting:
                made.submit(waiting.pop(0))
        heard.take(made.step())
        if chance.random() < 0.1:
            made.cancel(chance.randrange(len(asked)), FinishReason.CANCELLED)
    for number, reason in heard.reasons().items():
        got = heard.tokens.get(number, [])
        assert got == wanted[number][: len(got) if reason is FinishReason.CANCELLED else None]
    ended = set(heard.reasons().values())
    assert ended == {FinishReason.CANCELLED, FinishReason.LENGTH, FinishReason.STOP}
    assert made.stats().preemptions > 0
    assert empty(made)


def test_a_step_ahead_begins_before_the_last_tokens_are_known() -> None:
    made = loop(tiny.llama(), ahead=True)
    begun: list[list[int]] = []
    run_batch = made._runner.run

    def seen(batch: Any, newest: torch.Tensor) -> torch.Tensor:
        begun.append(batch.ahead.tolist())
        return run_batch(batch, newest)

    made._runner.run = seen
    heard = run(made, [job(1, [5, 6], 4)])
    assert begun == [[], [0], [0], [0]]
    assert heard.tokens[1] == generated(tiny.llama(), [5, 6], 4)


def test_every_end_says_why(made: Loop) -> None:
    ending = next(
        prompt
        for prompt, _ in prompts(200, VOCABULARY)
        if len(generated(tiny.llama(), prompt, 5)) < 5
    )
    heard = run(made, [job(1, [5, 6], 3), job(2, ending, 5)])
    assert heard.reasons() == {1: FinishReason.LENGTH, 2: FinishReason.STOP}
    assert len(heard.tokens[1]) == 3


def test_a_stop_token_ends_the_text_and_is_not_part_of_it(made: Loop) -> None:
    tokens = generated(tiny.llama(), [5, 6], 10)
    stop = next(token for token in tokens[1:] if token != tokens[0])
    sampling = Sampling(temperature=0, stop_token_ids=(stop,))
    heard = run(made, [job(1, [5, 6], 10, sampling=sampling), job(2, [5, 6], 10)])
    assert heard.reasons()[1] is FinishReason.STOP
    assert heard.tokens[1] == tokens[: tokens.index(stop)]
    assert heard.tokens[2] == tokens


def test_tokens_are_told_in_groups_as_each_request_wants_them(
    made: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.engines.native.telling.GROUP_SECONDS", 1000)
    for key, every in ((1, 0), (2, 1), (3, 8)):
        made.submit(job(key, [5, 6], 20, every=every))
    sizes: dict[int, list[int]] = {1: [], 2: [], 3: []}
    while made.busy:
        told = made.step()
        for key, count in zip(told.keys.tolist(), told.counts.tolist(), strict=True):
            sizes[key].append(count)
    assert sizes == {1: [20], 2: [1] * 20, 3: [8, 8, 4]}


def test_who_is_asked_for_later_is_told_in_groups_from_the_beginning(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("workers.engines.native.telling.GROUP_SECONDS", 1000)
    made = loop(tiny.llama(), slots=1)
    for key in (1, 2):
        made.submit(job(key, [5, 6], 20, every=0))
    for _ in range(6):
        assert not len(made.step().keys)
    for key in (1, 2, 3):  # one that runs, one that waits, one that nobody knows
        made.stream(key, 4)
    told: dict[int, list[int]] = {1: [], 2: []}
    while made.busy:
        progress = made.step()
        for key, count in zip(progress.keys.tolist(), progress.counts.tolist(), strict=True):
            told[key].append(count)
    assert [sum(counts) for counts in told.values()] == [20, 20]
    assert 5 <= told[1][0] <= 8
    assert told[2] == [4] * 5


def test_what_is_new_is_told_after_a_while_also_when_it_is_little(
    made: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.engines.native.telling.GROUP_SECONDS", 0)
    made.submit(job(1, [5, 6], 20, every=1000))
    told = [made.step().counts.tolist() for _ in range(1 + made._ahead)]
    assert told[-1] == [1]


def test_cancel_takes_effect_before_the_next_step_and_frees_the_memory(made: Loop) -> None:
    for key in (1, 2):
        made.submit(job(key, [5, 6], 50))
    heard = Heard()
    for _ in range(4):
        heard.take(made.step())
    made.cancel(1, FinishReason.CANCELLED)
    used = made.stats().kv_used
    heard.take(made.step())
    assert heard.reasons() == {1: FinishReason.CANCELLED}
    assert len(heard.tokens[1]) == 4 - made._ahead
    assert made.stats().kv_used < used
    assert made.stats().running == 1


def test_who_is_cancelled_before_a_first_step_has_used_nothing() -> None:
    made = loop(tiny.llama(), slots=1)
    made.submit(job(1, [5, 6], 5))
    made.submit(job(2, [5, 6], 5))
    made.step()
    made.cancel(2, FinishReason.CANCELLED)
    made.cancel(99, FinishReason.CANCELLED)
    heard = run(made, [])
    assert not heard.ends[2].prefilled
    assert heard.ends[1].prefilled
    assert 2 not in heard.tokens


@pytest.mark.parametrize("slots", [1, 2])
def test_a_deadline_ends_who_runs_and_who_waits(slots: int) -> None:
    made = loop(tiny.llama(), slots=slots)
    made.submit(job(1, [5, 6], 100))
    made.step()
    made.submit(job(2, [5, 6], 100, deadline=time.monotonic()))
    made.submit(job(3, [5, 6], 3, deadline=time.monotonic() + 1000))
    heard = Heard()
    heard.take(made.step())
    assert heard.reasons() == {2: FinishReason.DEADLINE}
    made._slots.deadline[:] = 0
    heard.take(made.step())
    assert heard.reasons()[1] is FinishReason.DEADLINE


def test_a_row_whose_logits_are_no_numbers_fails_alone(
    made: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_batch = made._runner.run

    def broken(batch: Any, newest: torch.Tensor) -> torch.Tensor:
        logits = run_batch(batch, newest)
        logits[made._slots.keys[batch.wanted_slots] == 2] = float("nan")
        return logits

    monkeypatch.setattr(made._runner, "run", broken)
    heard = run(made, [job(1, [5, 6], 5), job(2, [5, 6], 5)])
    assert heard.ends[2].error == "The model's output is not a number."
    assert heard.tokens[1] == generated(tiny.llama(), [5, 6], 5)
    assert empty(made)


def test_without_memory_for_a_step_the_next_is_smaller_and_nobody_fails(
    made: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_batch = made._runner.run

    def small(batch: Any, newest: torch.Tensor) -> torch.Tensor:
        if len(batch.tokens) > 8:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return run_batch(batch, newest)

    asked = prompts(6, VOCABULARY)
    wanted = [generated(tiny.llama(), *each) for each in asked]
    monkeypatch.setattr(made._runner, "run", small)
    heard = run(made, [job(key, *each) for key, each in enumerate(asked)])
    assert [heard.tokens.get(key, []) for key in range(6)] == wanted
    assert empty(made)


def test_steps_grow_again_when_memory_is_back(made: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.engines.native.scheduler.CALM_STEPS", 4)
    run_batch, shortages = made._runner.run, [2]

    def scarce(batch: Any, newest: torch.Tensor) -> torch.Tensor:
        if len(batch.slots) == len(batch.tokens) == 6 and shortages[0]:
            shortages[0] -= 1
            raise MemoryError
        return run_batch(batch, newest)

    monkeypatch.setattr(made._runner, "run", scarce)
    asked = [([5, 6, number], 40) for number in range(6)]
    heard, rows = Heard(), []
    for number, each in enumerate(asked):
        made.submit(job(number, *each))
    while made.busy:
        heard.take(made.step())
        rows.append(made._scheduler.most_rows)
    assert min(rows) == 3
    assert rows[-1] == 6
    assert [heard.tokens[number] for number in range(6)] == [
        generated(tiny.llama(), *each) for each in asked
    ]


def test_without_memory_to_choose_tokens_the_step_is_taken_again(
    made: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    choose = made._sampler.choose
    shortages = [3]

    def scarce(*given: Any, **named: Any) -> Any:
        if shortages[0]:
            shortages[0] -= 1
            raise MemoryError
        return choose(*given, **named)

    monkeypatch.setattr(made._sampler, "choose", scarce)
    heard = run(made, [job(1, [5, 6] * 20, 5), job(2, [5, 6], 5)])
    assert heard.tokens[1] == generated(tiny.llama(), [5, 6] * 20, 5)
    assert heard.tokens[2] == generated(tiny.llama(), [5, 6], 5)
    assert empty(made)


def test_a_loop_that_finds_no_memory_for_one_token_breaks_down_with_a_sentence(
    made: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(batch: Any, newest: torch.Tensor) -> torch.Tensor:
        raise MemoryError

    monkeypatch.setattr(made._runner, "run", never)
    with pytest.raises(MemoryGone, match="The engine ran out of memory, even for a single token"):
        run(made, [job(1, [5, 6, 7], 5), job(2, [5], 5)])


def test_statistics_count_what_was_done() -> None:
    made = loop(tiny.llama(), slots=2)
    run(made, [job(key, [key + 1] * 20, 10) for key in range(3)])
    stats = made.stats()
    assert (stats.started, stats.generated_tokens, stats.prefill_tokens) == (3, 30, 60)
    assert stats.kv_total == 48 * 16
    assert stats.step_seconds > 0
    assert stats.queue_seconds > 0
    assert stats.steps >= 20


def test_a_second_request_with_the_same_beginning_computes_only_what_differs(made: Loop) -> None:
    beginning = list(range(1, 65))
    run(made, [job(1, [*beginning, 7], 5)])
    before = made.stats().prefill_tokens
    heard = run(made, [job(2, [*beginning, 8], 5)])
    assert made.stats().prefill_tokens == before + 1
    assert heard.tokens[2] == generated(tiny.llama(), [*beginning, 8], 5)


def test_an_architecture_without_a_forward_is_said_to_be_unknown() -> None:
    model = tiny.llama()
    model.config.model_type = "mamba"
    with pytest.raises(UnknownArchitecture, match="no forward for models of kind mamba"):
        loop(model)


def test_a_rotation_that_depends_on_the_text_is_said_to_be_unknown() -> None:
    model = tiny.llama()
    model.config.rope_parameters["rope_type"] = "dynamic"
    with pytest.raises(UnknownArchitecture, match="rotary embedding of type dynamic"):
        loop(model)


def test_a_model_with_parts_that_nobody_knows_is_said_to_be_unknown() -> None:
    model = tiny.llama()
    del model.model.layers[1].mlp.up_proj
    with pytest.raises(UnknownArchitecture, match="does not know all parts"):
        loop(model)


def test_heads_that_turn_in_parts_are_said_to_be_unknown() -> None:
    model = tiny.llama()
    model.model.rotary_emb.inv_freq = model.model.rotary_emb.inv_freq[:4]
    with pytest.raises(UnknownArchitecture, match="turns whole heads"):
        loop(model)


def fuzzed(seconds: float, seed: int) -> tuple[Loop, Heard, dict[int, Job]]:
    """Random submits, cancels, deadlines and shortage of memory; what came of them."""
    chance = random.Random(seed)
    made = loop(tiny.llama(), slots=5, blocks=10, budget=20)
    heard, asked = Heard(), dict[int, Job]()
    until = time.monotonic() + seconds
    while time.monotonic() < until or made.busy:
        if time.monotonic() < until and chance.random() < 0.4:
            key = len(asked)
            size = chance.choice([1, 2, 16, 33, 70, 119])
            more = {"every": chance.choice([0, 1, 8])}
            if chance.random() < 0.2:
                more["deadline"] = time.monotonic() + chance.random() * 0.05
            ids = [chance.randrange(1, 4) for _ in range(size)]  # so that beginnings are shared
            asked[key] = job(key, ids, chance.randint(1, CONTEXT - size), **more)
            made.submit(asked[key])
        if asked and chance.random() < 0.1:
            made.cancel(chance.randrange(len(asked)), FinishReason.CANCELLED)
        heard.take(made.step())
    return made, heard, asked


def test_whatever_happens_every_request_ends_once_and_every_block_returns() -> None:
    made, heard, asked = fuzzed(3, seed=7)
    assert len(asked) > 50
    assert set(heard.ends) == set(asked)
    assert set(heard.reasons().values()) > {FinishReason.CANCELLED, FinishReason.LENGTH}
    for key, tokens in heard.tokens.items():
        assert len(tokens) <= asked[key].limit
    assert made.stats().preemptions > 0
    assert empty(made)
    assert np.unique(made._slots._free).size == made._slots.count


def test_one_answer_that_is_no_number_spoils_no_other() -> None:
    wanted = generated(tiny.llama(), [5, 6], 8)
    model = tiny.llama()
    broken = next(token for token in range(1, VOCABULARY) if token not in wanted)
    with torch.no_grad():
        model.model.embed_tokens.weight[broken] = float("nan")
    made = loop(model, blocks=4)
    heard = run(made, [job(1, [broken] * 60, 2)])
    assert heard.ends[1].error is not None
    for key in range(2, 8):
        assert run(made, [job(key, [5, 6], 8)]).tokens[key] == wanted


def test_a_token_that_the_model_does_not_know_fails_its_own_request_only(made: Loop) -> None:
    heard = run(made, [job(1, [5, 6], 5), job(2, [5, VOCABULARY], 5)])
    assert heard.tokens == {1: generated(tiny.llama(), [5, 6], 5)}
    assert heard.ends[2].error == "The prompt has a token that the model does not know."
    assert heard.ends[1].error is None
    assert empty(made)
