"""What the Triton kernels do beside the reference; test_triton_kernels runs these in a process of
their own, because Triton chooses between its interpreter and the GPU when it is imported.
"""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.kernels import attended, attention, batch, near
from workers.engines.native.batch import Batch
from workers.engines.native.kernels import (
    Attention,
    Heads,
    LayerCache,
    Norm,
    choose,
    triton_rows,
    triton_step,
)
from workers.engines.native.kernels.reference import ReferenceKernels
from workers.engines.native.kernels.triton import TritonKernels
from workers.engines.native.kernels.triton_step import Step

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
OURS, REFERENCE = TritonKernels(DEVICE), ReferenceKernels(DEVICE)


@pytest.fixture(autouse=True)
def on_the_device() -> Iterator[None]:
    torch.manual_seed(0)
    with DEVICE:
        yield


# The interpreter multiplies no bfloat16 matrices; that they compile is tested elsewhere.
@pytest.fixture(params=[torch.float32, torch.float16])
def dtype(request: pytest.FixtureRequest) -> Any:
    return request.param


def filled(heads: Heads, dtype: torch.dtype) -> tuple[LayerCache, LayerCache]:
    """Caches with the same random keys and values: ours and the reference's."""
    ours, theirs = (each.cache(64, heads, dtype) for each in (OURS, REFERENCE))
    for mine, other in ((ours.keys, theirs.keys), (ours.values, theirs.values)):
        mine.copy_(torch.randn(mine.shape))
        other.copy_(mine.transpose(1, 2))
    return ours, theirs


def inputs(heads: Heads, tokens: int, dtype: torch.dtype) -> Tensor:
    return torch.randn(tokens, (heads.heads + 2 * heads.kv_heads) * heads.dim).to(dtype)


@pytest.mark.parametrize("plain", [True, False])
def test_norms_agree(dtype: Any, plain: bool) -> None:
    residual, delta = (torch.randn(3, 96).to(dtype) for _ in range(2))
    norm, results = Norm(torch.rand(96), 1e-5, plain), []
    for kernels in (OURS, REFERENCE):
        kept = residual.clone()
        first = kernels.add_norm(kept, None, norm)
        assert torch.equal(kept, residual)
        results.append((first, kernels.add_norm(kept, delta, norm), kept))
    assert all(near(got, wanted) for got, wanted in zip(*results, strict=True))


@pytest.mark.parametrize("name", ["silu", "gelu_tanh"])
def test_gates_agree(dtype: Any, name: str) -> None:
    x = (torch.randn(2, 2 * 1100) * 8).to(dtype)
    assert near(OURS.gated(x, name), REFERENCE.gated(x, name))


def test_extreme_gates_stay_numbers() -> None:
    gate = torch.tensor([-1e30, -200.0, -0.0, 200.0, 1e30])
    x = torch.cat([gate, torch.ones(5)]).unsqueeze(0)
    for name in ("silu", "gelu_tanh"):
        assert near(OURS.gated(x, name), REFERENCE.gated(x, name))


@pytest.mark.parametrize(
    ("heads", "dtype", "options"),
    [
        (Heads(9, 3, 64, 0.125), torch.float32, {}),
        (Heads(4, 4, 16, 0.25), torch.float32, {"window": 8}),
        (Heads(4, 1, 32, 0.2), torch.float16, {"norms": True}),
        (Heads(4, 2, 80, 0.1, 3.0), torch.float16, {"norms": True, "plain": False, "window": 9}),
    ],
    ids=["grouped", "window", "norms", "gemma"],
)
def test_attention_agrees_in_prefill_in_chunks_and_in_decode(
    heads: Heads, dtype: torch.dtype, options: dict[str, Any]
) -> None:
    made = attention(heads, **options)
    batches = [batch([0, 0], [1, 15]), batch([1, 15], [1, 4]), batch([2, 19], [1, 1])]
    qkvs = [inputs(heads, len(each.tokens), dtype) for each in batches]
    got = attended(OURS, made, batches, qkvs)
    wanted = attended(REFERENCE, made, batches, qkvs)
    assert all(near(ours, theirs) for ours, theirs in zip(got, wanted, strict=True))


def agree(made: Attention, one: Batch, dtype: torch.dtype) -> Step:
    """Our step of a batch whose rows have random keys and values; checks what comes of it."""
    heads = made.heads
    ours, theirs = filled(heads, dtype)
    step, qkv = OURS.prepare(one, heads), inputs(heads, len(one.tokens), dtype)
    got = OURS.attend(step, qkv.clone(), attention=made, cache=ours)
    there = REFERENCE.prepare(one, heads)
    assert near(got, REFERENCE.attend(there, qkv, attention=made, cache=theirs))
    return step


@pytest.mark.parametrize("window", [0, 200])
def test_what_programs_find_in_their_parts_of_long_rows_is_put_together(window: int) -> None:
    made = attention(Heads(6, 2, 64, 0.125), window=window)
    step = agree(made, batch([0, 400], [1, 1], width=32), torch.float16)
    assert step.splits == 4


def test_new_tokens_are_cut_into_tiles() -> None:
    made = attention(Heads(32, 1, 16, 0.25), window=140)
    step = agree(made, batch([0, 150], [3, 5], width=16), torch.float32)
    assert step.tiles is not None
    assert step.tiles.rows.tolist() == [0, 0, 1, 1, 1]
    assert step.tiles.firsts.tolist() == [0, 2, 0, 2, 4]


@pytest.mark.parametrize("new", [[2, 5], [1, 1]], ids=["prefill", "decode"])
def test_what_a_block_held_before_does_not_matter(new: list[int]) -> None:
    heads = Heads(4, 2, 16, 0.25)
    made, one, results = attention(heads), batch([0, 0], new), []
    qkv, cache = inputs(heads, sum(new), torch.float16), OURS.cache(64, heads, torch.float16)
    for before in (0.0, float("nan")):
        cache.keys.fill_(before)
        cache.values.fill_(before)
        step = OURS.prepare(one, heads)
        results.append(OURS.attend(step, qkv.clone(), attention=made, cache=cache))
    assert torch.equal(*results)


def test_a_step_changes_only_the_places_of_its_tokens() -> None:
    heads = Heads(2, 1, 16, 0.25)
    cache, one = OURS.cache(64, heads, torch.float32), batch([5, 20], [1, 2])
    cache.keys.zero_()
    cache.values.zero_()
    qkv = inputs(heads, 3, torch.float32)
    OURS.attend(OURS.prepare(one, heads), qkv, attention=attention(heads), cache=cache)
    for each in (cache.keys, cache.values):
        written = each.abs().sum(-1).flatten().nonzero().flatten()
        assert sorted(written.tolist()) == sorted(one.places.tolist())


class Captured:
    """A step over tensors that stay, with one row more than the batches that fill them."""

    def __init__(self, heads: Heads, made: Attention) -> None:
        self.heads, self.made = heads, made
        self.cache, self.theirs = filled(heads, torch.float32)
        sizes = {"positions": (3,), "places": (3,), "lengths": (3,), "tables": (3, 32)}
        self.tensors = {name: torch.zeros(*size).int() for name, size in sizes.items()}
        self.step: Step = OURS.decoding(heads, **self.tensors)
        self.qkv = inputs(heads, 3, torch.float32)

    def run(self, one: Batch) -> Tensor:
        """What the rows of the batch get when the tensors hold it; the spare row has block 63."""
        self.tensors["lengths"].fill_(1)
        self.tensors["places"].fill_(63 * 16)
        self.tensors["tables"].fill_(63)
        for name, tensor in self.tensors.items():
            values = torch.from_numpy(getattr(one, name)).to(DEVICE)
            tensor[tuple(map(slice, values.shape))] = values
        return OURS.attend(self.step, self.qkv, attention=self.made, cache=self.cache)[:2]


def launches(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What each launch from now on is made with, but for the tensors' contents and places."""
    noted: list[Any] = []
    kind = type(triton_rows._place)
    run = kind.run

    def noting(kernel: Any, *args: Any, **options: Any) -> Any:
        given = [each.shape if isinstance(each, Tensor) else each for each in args]
        noted.append((kernel.__name__, given, options))
        return run(kernel, *args, **options)

    monkeypatch.setattr(kind, "run", noting)
    return noted


def test_a_captured_step_serves_any_rows_and_is_always_launched_alike(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    heads = Heads(6, 2, 64, 0.125)
    made = attention(heads, window=300)
    captured, noted, seen = Captured(heads, made), launches(monkeypatch), []
    for computed in ([0, 7], [480, 130]):
        one = batch(computed, [1, 1], width=31)
        qkv = captured.qkv[:2].clone()
        got = captured.run(one)
        seen.append(list(noted))
        noted.clear()
        step = REFERENCE.prepare(one, heads)
        assert near(got, REFERENCE.attend(step, qkv, attention=made, cache=captured.theirs))
    assert [name for name, *_ in seen[0]] == ["_place", "_decode", "_combine"]
    assert seen[0] == seen[1]


@pytest.mark.parametrize(("rows", "splits"), [(1, 32), (16, 4), (64, 1), (512, 1)], ids=str)
def test_few_rows_are_shared_among_more_programs(rows: int, splits: int) -> None:
    tables = torch.zeros(rows, 512).int()
    assert triton_step.splits(tables, Heads(32, 8, 128, 0.1), processors=132) == splits


def test_a_gpu_gets_these_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    properties = SimpleNamespace(multi_processor_count=132)
    monkeypatch.setattr("torch.cuda.get_device_properties", lambda device: properties)
    assert isinstance(choose(torch.device("cuda"), sizes=(80,)), TritonKernels)
