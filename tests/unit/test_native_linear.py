import os

os.environ.setdefault("GPTQMODEL_CPU_WORKERS", "2")  # as loading.py sets it, before the import

from typing import Any

import pytest
import torch
from torch import Tensor

from workers.engines.native import linear
from workers.engines.native.linear import Dense, FourBit, Packed, fused
from workers.engines.transformers import loading  # noqa: F401  (it brings gptqmodel, quietly)

WIDTH = 128
ROWS = [1, 3, 8, 9, 40]


def quantized(out: int, *, group: int = 32, bias: bool = False, shuffled: bool = False) -> Any:
    """A GPTQ matrix with random codes, zeros and scales, as gptqmodel loads one."""
    from gptqmodel.nn_modules.qlinear.torch_aten_kernel import TorchAtenLinear

    module = TorchAtenLinear(
        bits=4,
        group_size=group,
        sym=False,
        desc_act=shuffled,
        in_features=WIDTH,
        out_features=out,
        bias=bias,
    )
    for buffer in (module.qweight, module.qzeros):
        buffer.copy_(torch.randint(-(2**31), 2**31 - 1, buffer.shape, dtype=torch.int32))
    module.scales.copy_(torch.rand(module.scales.shape) * 0.02)
    groups = torch.arange(WIDTH) // group
    module.g_idx.copy_(groups[torch.randperm(WIDTH)] if shuffled else groups)
    if bias:
        module.bias.copy_(torch.randn(out))
        module.bias = module.bias.to(torch.bfloat16)
    return module


def wanted(modules: list[Any], x: Tensor) -> Tensor:
    """The product in float32."""
    parts = []
    for module in modules:
        plain = isinstance(module, torch.nn.Linear)
        weight = module.weight if plain else module.dequantize_weight().T
        part = x.float() @ weight.float().T
        parts.append(part if module.bias is None else part + module.bias.float())
    return torch.cat(parts, dim=-1)


def check(modules: list[Any], kind: Any, **options: Any) -> None:
    made = fused(*modules, **options)
    assert isinstance(made, kind)
    with torch.inference_mode():
        for rows in ROWS:
            x = torch.randn(rows, WIDTH).to(torch.bfloat16)
            true = wanted(modules, x)
            assert (made(x).float() - true).abs().max() <= 0.02 * true.abs().max()


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("group", [32, 64, 128])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("dense", [False, True])
def test_quantized_projections_side_by_side_give_their_products(
    group: int, bias: bool, dense: bool
) -> None:
    modules = [quantized(out, group=group, bias=bias) for out in (64, 32, 32)]
    check(modules, FourBit, dense=dense)


def test_columns_out_of_order_are_dequantized() -> None:
    check([quantized(64, shuffled=True)], (Packed, Dense))


def test_groups_of_different_sizes_are_dequantized() -> None:
    check([quantized(64), quantized(32, group=64)], (Packed, Dense))


def test_what_is_quantized_only_in_part_is_dequantized() -> None:
    plain = torch.nn.Linear(WIDTH, 32, bias=False, dtype=torch.bfloat16)
    check([quantized(64), plain], (Packed, Dense))


def test_without_quick_bfloat16_the_4_bit_kernel_serves_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(linear, "_bfloat16_is_fast", lambda: False)
    check([quantized(64)], FourBit)


def test_plain_projections_side_by_side_give_their_products() -> None:
    modules = [torch.nn.Linear(WIDTH, out, dtype=torch.bfloat16) for out in (64, 32)]
    check(modules, (Packed, Dense))
