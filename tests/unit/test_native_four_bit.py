"""The 4 bit product in C, by every means that this processor has, beside exact arithmetic."""

from typing import Any

import pytest
import torch
from torch import Tensor

from workers.engines.native.kernels import Codes, compiled
from workers.engines.native.kernels.compiled import CompiledKernels
from workers.engines.native.kernels.fourbit import FourBitProduct, Means
from workers.engines.native.linear import FourBit

SIZE = 256
# The ends of blocks of rows, for AVX512 as for AMX.
ROWS = [1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 32, 33, 48, 49, 70]


@pytest.fixture(scope="module")
def kernels() -> CompiledKernels:
    return CompiledKernels()


@pytest.fixture(params=[Means.AVX512, Means.AMX], ids=lambda means: means.name)
def means(request: pytest.FixtureRequest, kernels: CompiledKernels) -> Any:
    if request.param > kernels.means:
        pytest.skip(f"This processor has no {request.param.name}.")
    return request.param


def matrix(out: int, *, group: int = 32, symmetric: bool = True, bias: bool = False) -> Codes:
    shape = (SIZE // group, out)
    zeros = torch.full(shape, 8) if symmetric else torch.randint(0, 16, shape)
    return Codes(
        torch.randint(0, 16, (out, SIZE), dtype=torch.int32),
        (torch.rand(shape) / 50 + 0.01).to(torch.bfloat16),
        zeros.int(),
        group=group,
        bias=torch.randn(out).half() if bias else None,
    )


def exact(codes: Codes, x: Tensor) -> Tensor:
    zeros = codes.zeros.T.repeat_interleave(codes.group, 1)
    scales = codes.scales.T.repeat_interleave(codes.group, 1)
    product = x.double() @ ((codes.codes - zeros).double() * scales.double()).T
    return product if codes.bias is None else product + codes.bias.double()


def by(means: Means, kernels: CompiledKernels, codes: Codes) -> FourBitProduct:
    return FourBitProduct(kernels.library, codes, means=means, pages=kernels.pages)


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("symmetric", [True, False], ids=["symmetric", "asymmetric"])
@pytest.mark.parametrize("group", [32, 64, 128])
@pytest.mark.parametrize("out", [7, 16, 40])
def test_a_product_is_rounded_once(
    kernels: CompiledKernels, means: Means, out: int, group: int, symmetric: bool, bias: bool
) -> None:
    torch.manual_seed(0)
    codes = matrix(out, group=group, symmetric=symmetric, bias=bias)
    product = by(means, kernels, codes)
    for rows in ROWS:
        x = torch.randn(rows, SIZE).to(torch.bfloat16)
        wanted = exact(codes, x)
        # Half a unit in the last of the 8 bits of bfloat16, and what float's sums are off by.
        assert torch.allclose(product(x).double(), wanted, rtol=2**-8, atol=1e-5), rows


def test_a_row_has_the_same_product_in_any_company(kernels: CompiledKernels, means: Means) -> None:
    torch.manual_seed(0)
    product = by(means, kernels, matrix(40))
    x = torch.randn(40, SIZE).to(torch.bfloat16)
    alone = torch.cat([product(row.unsqueeze(0)) for row in x])
    assert all(torch.equal(product(x[:rows]), alone[:rows]) for rows in range(1, 41))


def test_every_means_and_pytorch_agree(kernels: CompiledKernels, means: Means) -> None:
    torch.manual_seed(0)
    codes = matrix(48)  # symmetric: PyTorch rounds what zeros add
    x = torch.randn(20, SIZE).to(torch.bfloat16)
    wanted = FourBit(codes, many=None)(x)
    # Different sums in float32 are rounded to neighbours in bfloat16 now and then.
    assert torch.allclose(by(means, kernels, codes)(x), wanted, rtol=2**-7, atol=1e-4)


def test_groups_that_are_no_whole_steps_are_left_to_pytorch(kernels: CompiledKernels) -> None:
    assert kernels.four_bit(matrix(16, group=16)) is None
    found = kernels.four_bit(matrix(16))
    assert (found is None) is (kernels.means is Means.NONE)


def test_a_processor_without_such_instructions_leaves_products_to_pytorch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(compiled, "FLAGS", ("-O1", "-shared", "-fPIC"))
    plain = CompiledKernels()
    assert plain.means is Means.NONE
    assert plain.four_bit(matrix(16)) is None
