"""Matrix products in int8, beside the float arithmetic of the quantized values."""

from typing import Any

import pytest
import torch
from torch import Tensor

from app.errors import ModelLoadFailed
from workers.engines.native.int8 import Int8, Rows, check_processor, quantized
from workers.engines.native.kernels.compiled import CompiledKernels
from workers.engines.native.kernels.reference import ReferenceKernels

SIZE = 96
BOTH = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
needs_vnni = pytest.mark.skipif(
    not torch.cpu._is_vnni_supported(), reason="this processor is refused"
)


@pytest.fixture(scope="module", params=[CompiledKernels, lambda: ReferenceKernels("cpu")])
def rows(request: pytest.FixtureRequest) -> Rows:
    made: Rows = request.param()
    return made


def near(got: Tensor, wanted: Tensor) -> bool:
    """But for one rounding to its dtype."""
    rounding = 1e-6 if got.dtype == torch.float32 else 2**-8
    return torch.allclose(got.double(), wanted, rtol=rounding, atol=1e-5)


def matrix(out: int, *, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(out, SIZE, generator=generator) * torch.rand(out, 1, generator=generator)


@needs_vnni
@BOTH
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("number", "out"), [(1, 64), (3, 48), (16, 160), (200, 64)])
def test_a_product_is_that_of_the_quantized_values(
    rows: Rows, dtype: Any, number: int, out: int, bias: bool
) -> None:
    torch.manual_seed(1)
    x, weight = torch.randn(number, SIZE).to(dtype), matrix(out)
    added = torch.randn(out) if bias else torch.zeros(out)
    codes, scales = rows.quantize(x)
    weights, weight_scales = quantized(weight)
    exact = (codes.double() - 128) @ weights.double().T
    wanted = exact * scales.double().unsqueeze(1) * weight_scales.double() + added.double()
    got = Int8(weight, added if bias else None, rows=rows)(x)
    assert got.dtype == dtype
    assert near(got, wanted)


@needs_vnni
@BOTH
def test_it_is_close_to_the_product_of_what_was_quantized(rows: Rows, dtype: Any) -> None:
    torch.manual_seed(1)
    x, weight = torch.randn(20, SIZE).to(dtype), matrix(64)
    got, wanted = Int8(weight, None, rows=rows)(x).float(), x.float() @ weight.T
    assert float((got - wanted).norm() / wanted.norm()) < 0.015


@needs_vnni
@BOTH
def test_a_row_does_not_depend_on_the_others(rows: Rows, dtype: Any) -> None:
    torch.manual_seed(1)
    x, made = (torch.randn(40, SIZE) * 8).to(dtype), Int8(matrix(64), None, rows=rows)
    together = made(x)
    for row in range(40):
        assert torch.equal(made(x[row : row + 1])[0], together[row])


@needs_vnni
@pytest.mark.parametrize("odd", [float("nan"), float("inf"), -float("inf")])
def test_what_is_no_number_stays_none_and_in_its_row(rows: Rows, odd: float) -> None:
    torch.manual_seed(1)
    x = torch.randn(3, SIZE)
    made = Int8(matrix(64), None, rows=rows)
    untouched = made(x)
    x[1, 17] = odd
    got = made(x)
    assert not got[1].isfinite().any()
    assert torch.equal(got[::2], untouched[::2])


@needs_vnni
def test_rows_and_channels_of_zeros_give_the_bias(rows: Rows) -> None:
    weight, bias = matrix(64), torch.rand(64)
    weight[5] = 0
    got = Int8(weight, bias, rows=rows)(torch.stack([torch.zeros(SIZE), torch.ones(SIZE)]))
    assert torch.equal(got[0], bias)
    assert got[1, 5] == bias[5]


@BOTH
def test_codes_use_their_whole_range_and_round_to_the_nearest(rows: Rows, dtype: Any) -> None:
    torch.manual_seed(1)
    x = (torch.randn(300, SIZE) * 30).to(dtype)
    codes, scales = rows.quantize(x)
    steps = x.double() / scales.double().unsqueeze(1)
    assert float((codes.double() - 128 - steps).abs().max()) <= 0.5 + 1e-4
    assert torch.equal((codes.int() - 128).abs().amax(1), torch.full((300,), 127))
    weights, weight_scales = quantized(x)
    assert float((weights.double() - x / weight_scales.double().unsqueeze(1)).abs().max()) <= 0.501


def test_a_processor_that_would_multiply_wrongly_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: False)
    with pytest.raises(ModelLoadFailed, match="VNNI"):
        check_processor()
