import sys
from typing import Any

import pytest
import torch

from tests.kernels import CPU, attended, attention, batch, near
from workers.engines.native.kernels import Heads, Norm, choose
from workers.engines.native.kernels.compiled import CompiledKernels, NoCompiler
from workers.engines.native.kernels.reference import ReferenceKernels


@pytest.fixture(scope="module")
def compiled() -> CompiledKernels:
    return CompiledKernels()


@pytest.fixture(params=[torch.float32, torch.bfloat16])
def dtype(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.mark.parametrize("plain", [True, False])
@pytest.mark.parametrize("tokens", [1, 5, 300])
def test_norms_agree(compiled: CompiledKernels, dtype: Any, tokens: int, plain: bool) -> None:
    torch.manual_seed(0)
    residual, delta = (torch.randn(tokens, 96).to(dtype) for _ in range(2))
    norm = Norm(torch.rand(96), 1e-5, plain)
    results = []
    for kernels in (compiled, ReferenceKernels(CPU)):
        kept = residual.clone()
        first = kernels.add_norm(kept, None, norm)
        assert torch.equal(kept, residual)
        results += [(first, kernels.add_norm(kept, delta, norm), kept)]
    assert all(near(got, wanted) for got, wanted in zip(*results, strict=True))


@pytest.mark.parametrize("name", ["silu", "gelu_tanh"])
@pytest.mark.parametrize("tokens", [1, 300])
def test_gates_agree(compiled: CompiledKernels, dtype: Any, tokens: int, name: str) -> None:
    torch.manual_seed(0)
    x = (torch.randn(tokens, 192) * 8).to(dtype)
    assert near(compiled.gated(x, name), ReferenceKernels(CPU).gated(x, name))


def test_extreme_gates_stay_numbers(compiled: CompiledKernels) -> None:
    gate = torch.tensor([-1e30, -200.0, -0.0, 200.0, 1e30]).repeat_interleave(16)
    x = torch.cat([gate, torch.ones_like(gate)]).unsqueeze(0)
    got = compiled.gated(x, "silu")
    assert torch.allclose(got, torch.nn.functional.silu(gate), rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize(
    ("heads", "options"),
    [
        (Heads(9, 3, 64, 0.125), {}),
        (Heads(4, 4, 16, 0.25), {"window": 8}),
        (Heads(8, 1, 32, 0.2), {"norms": True}),
        (Heads(4, 2, 16, 0.25), {"norms": True, "plain": False, "window": 20}),
        (Heads(4, 2, 128, 0.1, softcap=3.0), {}),
    ],
    ids=["grouped", "window", "norms", "gemma", "softcap"],
)
def test_attention_agrees_in_prefill_in_chunks_and_in_decode(
    compiled: CompiledKernels, dtype: Any, heads: Heads, options: dict[str, Any]
) -> None:
    torch.manual_seed(0)
    made = attention(heads, **options)
    batches = [
        batch([0, 0, 0], [1, 33, 20]),
        batch([1, 33, 20], [1, 1, 17]),
        batch([2, 34, 37], [1, 1, 1]),
        batch([3, 35, 38], [40, 1, 9]),
    ]
    width = (heads.heads + 2 * heads.kv_heads) * heads.dim
    inputs = [torch.randn(len(each.tokens), width).to(dtype) for each in batches]
    got = attended(compiled, made, batches, inputs)
    wanted = attended(ReferenceKernels(CPU), made, batches, inputs)
    assert all(near(ours, theirs) for ours, theirs in zip(got, wanted, strict=True))


def test_what_a_block_held_before_does_not_matter(compiled: CompiledKernels, dtype: Any) -> None:
    torch.manual_seed(0)
    heads = Heads(4, 2, 16, 0.25)
    made, one = attention(heads), batch([0, 0], [3, 20])
    cache = compiled.cache(64, heads, dtype)
    qkv = torch.randn(23, 128).to(dtype)
    results = []
    for before in (0.0, float("nan")):
        cache.keys.fill_(before)
        cache.values.fill_(before)
        step = compiled.prepare(one, heads)
        results.append(compiled.attend(step, qkv.clone(), attention=made, cache=cache))
    assert torch.equal(*results)


def test_a_step_changes_only_the_places_of_its_tokens(compiled: CompiledKernels) -> None:
    heads = Heads(2, 1, 16, 0.25)
    made = attention(heads)
    cache = compiled.cache(64, heads, torch.float32)
    one = batch([5, 20], [1, 2])
    compiled.attend(compiled.prepare(one, heads), torch.randn(3, 64), attention=made, cache=cache)
    written = cache.values.abs().sum(-1).flatten().nonzero().flatten()
    assert sorted(written.tolist()) == sorted(one.places.tolist())


def test_sizes_that_the_compiled_kernels_cannot_take_get_the_reference() -> None:
    assert isinstance(choose(CPU, sizes=(64, 576)), CompiledKernels)
    assert isinstance(choose(CPU, sizes=(64, 100)), ReferenceKernels)


def test_without_a_compiler_the_reference_serves(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(NoCompiler, match="no C compiler"):
        CompiledKernels()
    assert isinstance(choose(CPU, sizes=(64,)), ReferenceKernels)


def test_without_triton_the_reference_serves_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in [
        name for name in sys.modules if name.startswith("workers.") and "triton" in name
    ]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "triton", None)
    assert isinstance(choose(torch.device("cuda"), sizes=(64,)), ReferenceKernels)


def test_a_folder_that_nothing_may_be_executed_from_is_as_good_as_no_compiler(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refused(path: str) -> None:
        raise OSError("failed to map segment from shared object")

    monkeypatch.setattr("ctypes.CDLL", refused)
    with pytest.raises(NoCompiler, match="cannot be compiled or opened: failed to map"):
        CompiledKernels()


def test_a_compiler_that_fails_says_why(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    compiler = tmp_path / "cc"
    compiler.write_text("#!/bin/sh\necho no such processor >&2\nexit 1\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    with pytest.raises(NoCompiler, match="no such processor"):
        CompiledKernels()
