"""How many blocks of KV memory a model gets of what is free."""

from collections.abc import Callable

import pytest
import torch

from app.errors import ModelLoadFailed
from tests.integration import tiny
from tests.integration.loops import CONTEXT
from workers.engines.native import sizing
from workers.engines.native.models import lean
from workers.engines.native.models.llama import Llama

Given = Callable[[int], int]

SLOTS = 6
ONE_REQUEST = 8  # blocks of 16 tokens for CONTEXT


@pytest.fixture
def model() -> Llama:
    return lean(tiny.llama(), positions=CONTEXT, dense=False)


@pytest.fixture
def blocks(model: Llama, monkeypatch: pytest.MonkeyPatch) -> Given:
    """How many blocks the model gets where so many are its share of what is free."""

    def given(fitting: int) -> int:
        free = int(fitting * model.block_bytes / sizing.CPU_SHARE)
        monkeypatch.setattr(sizing, "free_bytes", lambda: free)
        return sizing.blocks(model, context_length=CONTEXT, slots=SLOTS, budget=30)

    return given


@pytest.mark.parametrize("fitting", [ONE_REQUEST, 2 * SLOTS, SLOTS * ONE_REQUEST])
def test_a_model_gets_what_fits(blocks: Given, fitting: int) -> None:
    assert blocks(fitting) == fitting


def test_a_model_gets_no_more_than_all_slots_can_use(blocks: Given) -> None:
    assert blocks(1000) == SLOTS * ONE_REQUEST


@pytest.mark.parametrize("fitting", [0, 3, ONE_REQUEST - 1])
def test_a_worker_that_could_not_hold_one_request_that_the_catalog_promises_does_not_start(
    blocks: Given, fitting: int
) -> None:
    with pytest.raises(ModelLoadFailed) as refused:
        blocks(fitting)
    assert refused.value.message == (
        f"The catalog promises 120 tokens of context; beside the model there is memory for the "
        f"keys and values of {16 * fitting}. Lower its context_length, free memory, or serve a "
        "smaller model."
    )


def test_a_gpu_that_others_have_filled_is_told_like_that(
    model: Llama, monkeypatch: pytest.MonkeyPatch
) -> None:
    model.device = torch.device("cuda")
    monkeypatch.setattr(sizing, "_free_on_cuda", lambda *_, **__: -5 * model.block_bytes)
    with pytest.raises(ModelLoadFailed, match=r"values of 0\."):
        sizing.blocks(model, context_length=CONTEXT, slots=SLOTS, budget=30)
