"""Captured steps, with a stand-in for the capture that computes them anew each time."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from app.errors import UnknownArchitecture
from tests.integration import tiny
from tests.integration.loops import CONTEXT, generated, job, loop, prompts, run
from workers.engines.native import building, sizing
from workers.engines.native.batch import Batch
from workers.engines.native.graphs import Compute, buckets
from workers.engines.native.inputs import Inputs
from workers.engines.native.kernels import Heads
from workers.engines.native.kernels.reference import ReferenceKernels, Step
from workers.engines.native.models import lean
from workers.engines.native.runner import ModelRunner

SLOTS = 6
NOTHING = np.zeros(0, np.int32)


class Replayed(ReferenceKernels):
    """The reference, over tensors that stay."""

    def decoding(
        self, heads: Heads, *, positions: Tensor, places: Tensor, lengths: Tensor, tables: Tensor
    ) -> Step:
        rows = np.arange(len(positions) + 1, dtype=np.int32)
        batch = decode(rows[:-1], lengths.numpy(), tables.numpy())
        return Step(batch, positions, places, tables)


def decode(slots: Any, lengths: Any, tables: Any, **other: Any) -> Batch:
    """One token a row."""
    rows = np.arange(len(slots) + 1, dtype=np.int32)
    given: dict[str, Any] = {
        "slots": slots,
        "adapters": np.zeros(len(slots), np.int32),
        "tokens": rows[:-1] + 5,
        "positions": lengths - 1,
        "places": tables[rows[:-1], (lengths - 1) // 16] * 16 + (lengths - 1) % 16,
        "starts": rows,
        "lengths": lengths,
        "tables": tables,
        "wanted": rows[:-1],
        "wanted_slots": slots,
        "ahead": NOTHING,
        "ahead_slots": NOTHING,
    }
    return Batch(**{**given, **other})


class Checked:
    """A runner whose captured steps are held against the others."""

    def __init__(self, runner: ModelRunner) -> None:
        self._runner, self.compared, self.sizes = runner, 0, []
        runner.capture(slots=SLOTS, width=-(-CONTEXT // 16), capture=self._capture)
        self._graphs = runner._graphs
        self.captured, self.sizes = self.sizes, []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._runner, name)

    def _capture(self, compute: Compute) -> Compute:
        self.sizes.append(len(compute()))

        def replay() -> Tensor:
            self.sizes.append(len(compute()))
            return compute()

        return replay

    def run(self, batch: Batch, newest: Tensor) -> Tensor:
        self._runner._graphs = None
        wanted = self._runner.run(batch, newest)
        self._runner._graphs = self._graphs
        got = self._runner.run(batch, newest)
        assert torch.allclose(got, wanted, rtol=1e-4, atol=1e-4)
        return got


@pytest.fixture
def replayable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "workers.engines.native.models.choose", lambda device, sizes: Replayed(device)
    )


@pytest.mark.parametrize(
    ("make", "ahead"), [(tiny.llama, False), (tiny.llama, True), (tiny.gemma2, True)]
)
def test_captured_steps_give_the_logits_and_texts_of_the_others(
    make: Callable[[], Any], ahead: bool, replayable: None
) -> None:
    made = loop(make(), slots=SLOTS)
    made._runner = checked = Checked(made._runner)
    made._ahead = ahead
    asked = prompts(8, 290)
    heard = run(made, [job(key, ids, limit) for key, (ids, limit) in enumerate(asked)])
    model = make()
    for key, (ids, limit) in enumerate(asked):
        assert heard.tokens[key] == generated(model, ids, limit)
    assert checked.captured == [6, 4, 2, 1]
    assert set(checked.sizes) >= {1, 4, 6}


def test_steps_that_are_not_of_the_captured_kind_run_as_they_are(replayable: None) -> None:
    runner = ModelRunner(lean(tiny.llama(), positions=CONTEXT, dense=False), blocks=8)
    runner.capture(slots=2, width=2, capture=lambda compute: compute)
    graphs = runner._graphs
    assert graphs is not None
    slots, lengths = np.array([1, 0], np.int32), np.array([3, 20], np.int32)
    tables = np.array([[2, 0], [1, 3]], np.int32)
    assert graphs.takes(decode(slots, lengths, tables))
    some = decode(slots, lengths, tables, wanted=slots[1:], wanted_slots=slots[:1])
    assert not graphs.takes(some)
    more = np.concatenate([tables, tables])
    assert not graphs.takes(decode(np.arange(4, dtype=np.int32), lengths.repeat(2), more))
    prompt = sizing.trial(16, context_length=8, tokens=8, rows=1)
    assert not graphs.takes(prompt)


def test_kernels_that_ask_the_host_are_not_captured() -> None:
    runner = ModelRunner(lean(tiny.llama(), positions=CONTEXT, dense=False), blocks=2)
    assert runner.capture(slots=2, width=2, capture=pytest.fail) == 0


@pytest.mark.parametrize("most", [1, 2, 7, 16, 20, 64, 512])
def test_no_step_is_filled_up_by_a_tile_or_to_more_than_twice_its_rows(most: int) -> None:
    sizes = buckets(most)
    assert sizes == sorted(set(sizes))
    assert sizes[-1] == most
    for rows in range(1, most + 1):
        size = min(each for each in sizes if each >= rows)
        assert size < min(2 * rows, rows + 16)


def test_rows_that_fill_up_a_step_touch_nobody() -> None:
    inputs = Inputs(6, width=3, filler=(9, 16), device=torch.device("cpu"))
    lengths = np.array([3, 20], np.int32)
    tables = np.array([[2, 7], [1, 3]], np.int32)
    slots = np.array([4, 5], np.int32)
    ahead = {"ahead": np.array([1], np.int32), "ahead_slots": slots[1:]}
    five = np.arange(5, dtype=np.int32)
    inputs.fill(decode(five, five + 1, five.reshape(5, 1) + 1), 6)
    inputs.fill(decode(slots, lengths, tables, **ahead), 4)
    tokens, positions, places, all_lengths, all_tables = inputs.of(4)
    assert tokens.tolist() == [5, ~5, 0, 0]
    assert positions.tolist() == [2, 19, 0, 0]
    assert places.tolist() == [2 * 16 + 2, 3 * 16 + 3, 9 * 16, 9 * 16]
    assert all_lengths.tolist() == [3, 20, 1, 1]
    assert all_tables[:2, :2].tolist() == tables.tolist()
    assert all_tables[2:, 0].tolist() == [9, 9]


@pytest.mark.parametrize(("tokens", "rows"), [(250, 6), (100, 6), (5, 6), (101, 1)])
def test_a_trial_is_as_large_as_a_step_and_needs_one_block(tokens: int, rows: int) -> None:
    batch = sizing.trial(16, context_length=100, tokens=tokens, rows=rows)
    assert len(batch.tokens) == max(tokens, rows)
    assert batch.places.max() < 16
    model = lean(tiny.llama(), positions=100, dense=False)
    runner = ModelRunner(model, blocks=1)
    with torch.inference_mode():
        logits = runner.run(batch, torch.zeros(rows, dtype=torch.int32))
    assert logits.shape == (rows, runner.vocabulary)


def test_keys_and_values_get_what_a_trial_and_other_processes_leave_of_a_gpu() -> None:
    # 1000 in all: others have 100, PyTorch 600, of which a step needs 500 at most.
    assert sizing.left_on_cuda(total=1000, free=300, reserved=600, peak=500) == 900 - 100 - 500


def test_without_triton_another_engine_takes_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.engines.transformers.loading.on_cuda", lambda device: True)
    monkeypatch.setattr(building, "find_spec", lambda name: None)
    with pytest.raises(UnknownArchitecture, match="needs Triton"):
        building.build(
            None,
            models_dir=None,
            device="cuda",
            context_length=8,
            slots=1,
        )
