"""Several Marlin matrices as one, in Marlin's own layout, multiplied here by a stand-in."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from workers.engines.native.kernels.reference import ReferenceKernels
from workers.engines.native.linear import fused
from workers.engines.native.marlin import together

SIZE = 128
# Of a thread's two columns, which rows; and in which order the codes lie in a word.
ROWS = (0, 1, 8, 9)
ORDER = {4: (0, 2, 4, 6, 1, 3, 5, 7), 8: (0, 2, 1, 3)}


def tile(bits: int) -> Tensor:
    """Which place of a tile, 16 rows of 64, each code of each word is; (words, codes)."""
    words: dict[int, list[int]] = {}
    for thread in range(32):
        for warp in range(4):
            row, column = thread % 4 * 2, warp * 16 + thread // 4
            places = [(row + down) * 64 + column + right for right in (0, 8) for down in ROWS]
            each = len(ORDER[bits])
            for part in range(8 // each):
                at = thread * 32 // each + warp * 8 // each + part
                words[at] = [places[part * each + code] for code in ORDER[bits]]
    return torch.tensor([words[at] for at in range(len(words))])


def repacked(codes: Tensor, bits: int) -> Tensor:
    """(in, out) as gptqmodel's ``gptq_marlin_repack`` gives it."""
    rows, columns = codes.shape
    tiles = codes.view(rows // 16, 16, columns // 64, 64).transpose(1, 2).flatten(2)
    shifts = torch.arange(32 // bits) * bits
    words = (tiles[..., tile(bits)].long() << shifts).sum(-1)
    return words.flatten(1).to(torch.int32)


def unpacked(words: Tensor, bits: int, columns: int) -> Tensor:
    """The codes again, (in, out)."""
    codes = (words.unsqueeze(-1) >> (torch.arange(32 // bits) * bits)) & ((1 << bits) - 1)
    tiles = torch.empty(len(words), columns // 64, 16 * 64, dtype=torch.int32)
    tiles[..., tile(bits).flatten()] = codes.view(len(words), columns // 64, -1).int()
    return tiles.view(len(words), columns // 64, 16, 64).transpose(1, 2).reshape(-1, columns)


def permuted(values: Tensor, size: int, group: int) -> Tensor:
    from gptqmodel.utils.marlin import marlin_permute_scales

    found: Tensor = marlin_permute_scales(values, size, values.shape[-1], group)
    return found


def ordered(values: Tensor, size: int, group: int) -> Tensor:
    """What was permuted, in order again."""
    places = permuted(torch.arange(values.shape[-1]).unsqueeze(0), size, group)[0]
    found = torch.empty_like(values)
    found[:, places] = values
    return found


def apply(**given: Any) -> Tensor:
    """As ``apply_gptq_marlin_linear`` computes it, from the repacked tensors alone."""
    bits, size = given["wtype"], given["input_size_per_partition"]
    columns, scales = given["output_size_per_partition"], given["weight_scale"]
    assert scales.is_contiguous()
    assert given["weight"].is_contiguous()
    group = size // len(scales)
    scales = ordered(scales, size, group if len(scales) > 1 else -1).repeat_interleave(group, 0)
    weight = (unpacked(given["weight"], bits, columns) - (1 << (bits - 1))) * scales.float()
    product = given["input"].float() @ weight
    if given["bias"] is not None:
        product += ordered(given["bias"].unsqueeze(0), size, -1).float()
    return product.half()


class Module(SimpleNamespace):
    """A matrix as gptqmodel's MarlinLinear holds it."""

    QUANT_TYPE = "marlin"

    def __call__(self, x: Tensor) -> Tensor:
        return apply(
            input=x,
            weight=self.qweight,
            weight_scale=self.scales,
            wtype=self.weight_type,
            output_size_per_partition=self.out_features,
            input_size_per_partition=self.in_features,
            bias=self.bias,
        )


def marlin(columns: int, *, bits: int = 4, group: int = 32, bias: bool = False) -> Module:
    codes = torch.randint(0, 1 << bits, (SIZE, columns))
    scales = torch.rand(SIZE // group, columns).half() / 50 + 0.01
    group_size = group if group < SIZE else -1
    added = permuted(torch.randn(1, columns).half(), SIZE, -1)[0] if bias else None
    return Module(
        bits=bits,
        group_size=group,
        desc_act=False,
        in_features=SIZE,
        out_features=columns,
        qweight=repacked(codes, bits),
        scales=permuted(scales, SIZE, group_size),
        bias=added,
        qzeros=torch.empty(0),
        g_idx=torch.empty(0),
        g_idx_sort_indices=torch.empty(0),
        workspace=torch.zeros(128),
        weight_type=bits,
        is_k_full=True,
        fp32=True,
        _marlin_tile_padding=None,
    )


@pytest.fixture(autouse=True)
def no_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    monkeypatch.setattr("gptqmodel.utils.marlin.apply_gptq_marlin_linear", apply)


@pytest.mark.parametrize("bits", [4, 8])
def test_the_layout_is_read_as_it_is_written(bits: int) -> None:
    codes = torch.randint(0, 1 << bits, (SIZE, 192))
    assert torch.equal(unpacked(repacked(codes, bits), bits, 192), codes.int())


@pytest.mark.parametrize(
    "how",
    [{}, {"bits": 8}, {"group": 64}, {"group": SIZE}, {"bias": True}],
    ids=str,
)
def test_several_matrices_are_one(how: dict[str, Any]) -> None:
    modules = [marlin(columns, **how) for columns in (192, 64, 128)]
    product = together(modules)
    assert product is not None
    x = torch.randn(3, SIZE).half()
    wanted = torch.cat([module(x) for module in modules], dim=-1)
    assert torch.allclose(product(x), wanted, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    "other",
    [
        {"_marlin_tile_padding": (128, 128)},
        {"desc_act": True},
        {"out_features": 96},
        {"QUANT_TYPE": "tritonv2"},
        {"bits": 8},
    ],
    ids=str,
)
def test_what_does_not_lie_in_whole_tiles_stays_apart(other: dict[str, Any]) -> None:
    first, second = marlin(64), marlin(64)
    vars(second).update(other)
    assert together([first, second]) is None


def test_a_kernel_that_reads_another_layout_is_found_out(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def wrong(**given: Any) -> Tensor:
        right = apply(**given)
        right[:, 7], right[:, 70] = right[:, 70].clone(), right[:, 7].clone()
        return right

    monkeypatch.setattr("gptqmodel.utils.marlin.apply_gptq_marlin_linear", wrong)
    assert together([marlin(64), marlin(64)]) is None


class OnCuda(Module):
    """One whose tensors say that they are on a GPU."""

    @property
    def qweight(self) -> Any:
        return SimpleNamespace(is_cuda=True)

    def __call__(self, x: Tensor) -> Tensor:
        return x * self.factor


KERNELS = ReferenceKernels(torch.device("cpu"))


def test_other_kernels_are_asked_one_by_one() -> None:
    first, second = (OnCuda(QUANT_TYPE="tritonv2", factor=each) for each in (2, 3))
    x = torch.ones(2, 4)
    assert torch.equal(fused(first, second, kernels=KERNELS)(x), torch.cat([2 * x, 3 * x], dim=-1))
    assert fused(first, kernels=KERNELS) is first
