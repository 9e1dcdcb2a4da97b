"""scripts/bench engine: what it asks, whom it excludes, and what it says of the targets."""

import argparse
import json
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from scripts.benching.engine import checkpoint, command, shapes
from scripts.benching.engine.contest import Contest, started
from scripts.benching.engine.host import Host
from scripts.benching.engine.product import Product
from scripts.benching.engine.prompts import Prompts
from scripts.benching.engine.targets import GPU_TARGETS, TARGETS, Target, verdicts
from scripts.benching.engine.work import Answer, Failed, Flight, Work, first_tokens, rate
from scripts.benching.figures import Figure
from scripts.benching.notes import Notes
from scripts.stack.problem import Problem
from tests.conftest import ROOT
from workers import engines
from workers.engines.fake import FakeEngine
from workers.engines.fake_behaviour import FakeBehaviour

TOKENS = 4
SPEED = "&tokens_per_second=2000"


def fake(*, tokens: int = TOKENS, more: str = "") -> partial[Product]:
    """Our fake engine as a contestant; its texts end after so many tokens."""
    source = Path(f"fake:answer_tokens={tokens}{more}")
    return partial(Product, "fake", folder=source, slots=4, device="cpu")


def test_all_prompts_of_a_run_differ_and_are_the_same_in_every_run() -> None:
    prompts = Prompts(TOKENS, 1)
    works = [prompts.together(64, 64) for _ in range(5)]
    texts = [text for work in works for text in work.prompts]
    assert len({text[:20] for text in texts}) > 0.95 * len(texts)
    assert Prompts(TOKENS, 1).together(64, 64) == works[0]


def test_random_arrivals_come_one_by_one_at_the_rate_that_was_wanted() -> None:
    work = Prompts(TOKENS, 1).at_random(100, 10, in_flight=4)
    assert 900 < len(work.arrivals) < 1100
    assert work.arrivals == sorted(work.arrivals)
    assert 0 < work.arrivals[0] < work.arrivals[-1] < 10


def test_no_more_requests_depart_than_may_be_in_flight() -> None:
    work = Work(prompts=["a", "b", "c"], tokens=TOKENS, arrivals=[0, 0, 0], in_flight=2)
    flight = Flight(work)
    gone: list[int] = []
    departing = threading.Thread(
        target=lambda: gone.extend(number for number, _ in flight.departures())
    )
    departing.start()
    departing.join(0.2)
    assert departing.is_alive()
    flight.ended(0, TOKENS)
    departing.join(10)
    flight.ended(1, TOKENS)
    flight.ended(2, TOKENS)
    assert gone == [0, 1, 2]
    assert [answer.tokens for answer in flight.land()] == [TOKENS] * 3


def test_a_rate_counts_from_the_first_request_to_the_last_end() -> None:
    answers = [
        Answer(sent=1.0, ended=2.0, tokens=10),
        Answer(sent=1.5, ended=3.0, tokens=10, first=1.75),
    ]
    assert rate(answers) == 10
    assert first_tokens(answers) == [250]


def test_a_contestant_answers_from_a_process_of_its_own() -> None:
    host = Host("fake", fake())
    try:
        work = Prompts(TOKENS, 1).together(6, 2)
        assert [answer.tokens for answer in host.ask(work)] == [TOKENS] * 6
        assert host.peak_bytes(work) > 2**20
    finally:
        host.close()


def test_a_contestant_that_generates_another_number_of_tokens_is_out() -> None:
    entries = {"ours": fake(), "short": fake(tokens=TOKENS - 1)}
    with started(entries, ours="ours", notes=Notes()) as hosts:
        contest = Contest(hosts, ours="ours", notes=Notes())
        contest.warm(Prompts(TOKENS, 1))
        contest.measure(0, Prompts(TOKENS, 1), seconds=0.01)
    assert set(contest.rounds.memory) == {"ours"}
    assert {load: set(rates) for load, rates in contest.rounds.rates.items()} == {
        load: {"ours"} for load in ("1", "16", "64", "random")
    }


def test_a_bench_ends_when_our_engine_fails_in_it() -> None:
    with started({"ours": fake(more="&fail_every=2")}, ours="ours", notes=Notes()) as hosts:
        contest = Contest(hosts, ours="ours", notes=Notes())
        with pytest.raises(Problem, match=r"^ours: .*fail"):
            contest.warm(Prompts(TOKENS, 1))


def test_without_our_engine_nothing_is_compared(capsys: pytest.CaptureFixture[str]) -> None:
    entries = {"theirs": fake(more="&fail_at_load=1"), "ours": fake(more="&fail_at_load=1")}
    with (
        pytest.raises(Problem, match=r"^ours: .*told to fail at load"),
        started(entries, ours="ours", notes=Notes()),
    ):
        pass
    assert "theirs does not take part" in capsys.readouterr().err


def test_an_engine_for_which_another_falls_in_is_not_measured_under_its_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fallen_in = FakeEngine(behaviour=FakeBehaviour(), context_length=8, slots=1)
    monkeypatch.setattr(engines, "load", lambda *_, **__: fallen_in)
    with pytest.raises(Failed, match="The engine native does not run this model here"):
        Product("native", folder=Path("anywhere"), slots=1, device="cpu")


def test_a_contestant_whose_requests_fail_says_why() -> None:
    host = Host("fake", fake(more="&fail_every=2"))
    try:
        with pytest.raises(Failed, match="fail"):
            host.ask(Prompts(TOKENS, 1).together(4, 4))
    finally:
        host.close()


def test_a_checkpoint_without_an_end_is_the_same_otherwise(tmp_path: Path) -> None:
    original = tmp_path / "original"
    original.mkdir()
    (original / "config.json").write_text('{"eos_token_id": 2, "hidden_size": 8}')
    (original / "tokenizer_config.json").write_text('{"eos_token": "<end>"}')
    (original / "model.safetensors").write_bytes(b"weights")
    folder = checkpoint.endless(original, tmp_path / "endless")
    assert json.loads((folder / "config.json").read_text()) == {
        "eos_token_id": None,
        "hidden_size": 8,
    }
    assert json.loads((folder / "tokenizer_config.json").read_text()) == {"eos_token": None}
    assert (folder / "model.safetensors").read_bytes() == b"weights"


def test_a_folder_without_a_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Problem, match=r"There is no checkpoint in .*--checkpoint"):
        checkpoint.endless(tmp_path, tmp_path / "endless")


def test_the_engine_that_is_measured_is_the_demo_models(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert command.catalogued() in {"native", "transformers"}


@pytest.mark.parametrize(
    ("target", "line"),
    [
        (Target("fast", "speed", 1.2), "✓  1.5, at least 1.2: fast"),
        (Target("fast", "speed", 2.0), "✗  1.5, at least 2: fast"),
        (Target("fast", "speed", 300, of="value"), "✓  300 tokens/s, at least 300: fast"),
        (Target("slow", "speed", 299, of="value", most=True), "✗  300 tokens/s, at most 299: slow"),
        (Target("told", "nobody", 1.0), "-  not measured: told"),
        (Target("told", "lonely", 1.0), "-  not measured: told"),
    ],
)
def test_a_target_says_whether_it_holds(target: Target, line: str) -> None:
    found = [Figure("speed", 300, "tokens/s", 200, 1.5), Figure("lonely", 1, "ms")]
    assert verdicts([target], found) == [line]


def test_every_target_is_of_a_figure_that_can_be_measured() -> None:
    rivals = ("static", "continuous", "llama")
    measured = {f"engine_{load}_{name}" for load in (1, 16, 64, "random") for name in rivals}
    measured |= {"engine_loop_512", "engine_in_worker", "engine_in_worker_batches"}
    assert {target.figure for target in TARGETS} <= measured
    assert {target.figure for target in GPU_TARGETS} <= {
        f"gpu_{name}_{kind}_{batch}"
        for name in shapes.SHAPES
        for kind in ("gptq", "bf16")
        for batch in (1, 64, 256, 512)
    }


@pytest.mark.parametrize(
    ("batch", "plain", "quantized"),
    [(1, 1.5, 4.1), (64, 77, 149), (256, 182, 249), (512, 236, 249)],
)
def test_the_roofline_of_the_small_model_is_the_known_one(
    batch: int, plain: float, quantized: float
) -> None:
    shape = shapes.SHAPES["1.5b"]
    for expected, packed in ((plain, False), (quantized, True)):
        found = shape.roofline(batch=batch, context=500, quantized=packed) / 1000
        assert found == pytest.approx(expected, rel=0.04)


def test_a_token_of_the_large_model_has_128_kib_of_keys_and_values() -> None:
    assert shapes.SHAPES["8b"].token_bytes == 128 * 2**10


def decoded(make: partial[Product], capsys: Any, *, seconds: float = 100) -> tuple[Any, str]:
    """What the fake engine reaches as a large model, and what is said of it."""
    gpu = pytest.importorskip("scripts.benching.engine.gpu")
    found = gpu.decoding(
        make,
        gpu.Numbers(100),
        name="ours",
        batches=(4, 1),
        rounds=2,
        ends=time.monotonic() + seconds,
        notes=Notes(),
    )
    return found, capsys.readouterr().err


def test_a_large_model_is_measured_in_each_batch(capsys: pytest.CaptureFixture[str]) -> None:
    found, said = decoded(fake(tokens=500, more=SPEED), capsys)
    assert {batch: len(values) for batch, values in found.items()} == {4: 2, 1: 2}
    assert "ours, 4 at once" in said


def test_a_batch_that_fails_does_not_lose_the_others(capsys: pytest.CaptureFixture[str]) -> None:
    # The first batch warms up with four requests, the other needs five in all.
    found, said = decoded(fake(tokens=500, more=f"{SPEED}&fail_every=6"), capsys)
    assert set(found) == {1}
    assert "ours, 4 at once: " in said


def test_when_time_is_up_nothing_more_begins(capsys: pytest.CaptureFixture[str]) -> None:
    found, said = decoded(fake(tokens=500), capsys, seconds=0)
    assert found == {}
    assert "no time is left for [4, 1] at once" in said


def test_without_a_device_the_gpu_bench_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("There is a CUDA device here.")
    with pytest.raises(SystemExit) as ended:
        command.run(argparse.Namespace(gpu=True), Notes())
    assert ended.value.code == 2
    assert "There is no CUDA device here" in capsys.readouterr().err
