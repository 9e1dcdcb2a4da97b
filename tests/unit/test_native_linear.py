"""Quantized matrices of every kind that GPTQ has, beside their dequantized weights."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from workers.engines.native.kernels import Kernels, choose
from workers.engines.native.kernels.fourbit import FourBitProduct
from workers.engines.native.kernels.reference import ReferenceKernels
from workers.engines.native.linear import FourBit, fused, of_weight

CPU = torch.device("cpu")


def packed(values: Tensor, bits: int) -> Tensor:
    """Rows of codes in int32, the lowest bits first."""
    number = 32 // bits
    grouped = values.reshape(-1, number, values.shape[-1]).long()
    words = (grouped << (torch.arange(number) * bits).view(1, -1, 1)).sum(1)
    return torch.where(words >= 1 << 31, words - (1 << 32), words).to(torch.int32)


def gptq(size: int = 128, out: int = 64, **how: Any) -> Any:
    """A module as gptqmodel loads it: scales and bias are in float16."""
    bits, group = how.get("bits", 4), how.get("group", 32)
    order = torch.arange(size) // group
    order = order[torch.randperm(size)] if how.get("shuffled") else order
    codes = torch.randint(0, 1 << bits, (size, out))
    zeros = torch.randint(0, 1 << bits, (int(order.max()) + 1, out))
    scales = (torch.rand(zeros.shape) / 50 + 0.01).half()
    weight = (codes - zeros[order]) * scales[order].float()
    return SimpleNamespace(
        bits=bits,
        group_size=group,
        in_features=size,
        g_idx=order,
        qweight=packed(codes, bits),
        qzeros=packed(zeros.T, bits).T.contiguous(),
        scales=scales,
        bias=torch.randn(out).half() if how.get("bias") else None,
        dequantize_weight=lambda: weight,
    )


def plain() -> Any:
    return torch.nn.Linear(128, 64, bias=False, dtype=torch.bfloat16)


def true(module: Any, x: Tensor) -> Tensor:
    known = isinstance(module, torch.nn.Linear)
    weight = module.weight if known else module.dequantize_weight().T
    product = x.float() @ weight.float().T
    return product if module.bias is None else product + module.bias.float()


@pytest.fixture(scope="module", params=["best", "reference"])
def kernels(request: pytest.FixtureRequest) -> Kernels:
    return choose(CPU, sizes=(16,)) if request.param == "best" else ReferenceKernels(CPU)


@pytest.mark.parametrize("rows", [1, 8, 9, 40])
@pytest.mark.parametrize("dense", [True, False])
@pytest.mark.parametrize(
    "kinds",
    [
        [{}],
        [{}, {}, {}],
        [{"shuffled": True}],
        [{"group": 128}],
        [{"bits": 8}],
        [{"bias": True}, {"bias": True}],
        [{"bias": True, "bits": 8}],
        [{"size": 96, "group": 64}],
        [{"group": 32}, {"group": 64}],
        [{"bits": 4}, {"bits": 8}],
        [{"bias": True}, {}],
        [{}, None],
        [None, {}],
    ],
    ids=str,
)
@torch.inference_mode()
def test_a_product_is_that_of_the_dequantized_weights(
    kinds: list[dict[str, Any] | None], kernels: Kernels, dense: bool, rows: int
) -> None:
    torch.manual_seed(0)
    modules = [plain() if kind is None else gptq(**kind) for kind in kinds]
    size = 128 if kinds[0] is None else modules[0].in_features
    x = torch.randn(rows, size).to(torch.bfloat16)
    got = fused(*modules, kernels=kernels, dense=dense)(x).float()
    wanted = torch.cat([true(module, x) for module in modules], dim=-1)
    assert float((got - wanted).norm() / wanted.norm()) < 0.01


@pytest.mark.parametrize(
    "how",
    [{"bits": 8}, {"shuffled": True}, {"group": 8}],
    ids=["8 bit", "activation order", "small groups"],
)
def test_what_no_kernel_multiplies_is_kept_in_bfloat16(kernels: Kernels, how: Any) -> None:
    in_bfloat16 = of_weight(plain().weight, None)
    assert type(fused(gptq(**how), kernels=kernels)) is type(in_bfloat16)
    assert type(fused(gptq(), kernels=kernels)) in (FourBit, FourBitProduct)
