"""Matrix products: several projections of the same input as one, by the kernel that is fastest.

On CUDA a quantized matrix stays with the kernel that gptqmodel chose. On the CPU 4 bit matrices
have a kernel of ours where the processor can do it (``kernels/fourbit.c``). Elsewhere they exist
twice, where memory allows: few rows are bound by reading weights, so PyTorch's 4 bit kernel wins;
many are bound by arithmetic, where bfloat16 wins. Those of 8 bit become bfloat16.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.functional import linear

from workers.engines.native import marlin
from workers.engines.native.kernels import Codes, Kernels

# Up to so many rows the 4 bit kernel is faster (measured: docs/engine.md).
FEW_ROWS = 8


class Linear(Protocol):
    """``x @ weight.T + bias``."""

    def __call__(self, x: Tensor, /) -> Tensor:
        """(rows, in) to (rows, out), of the same dtype."""


# What makes a Linear of a matrix (out, in) and bias (out,).
Make = Callable[[Tensor, Tensor | None], Linear]


class Dense:
    """A matrix as it is."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        """``weight`` (out, in), ``bias`` (out,)."""
        self._weight, self._bias = weight, bias

    def __call__(self, x: Tensor) -> Tensor:
        """See Linear."""
        return linear(x, self._weight, self._bias)


class Packed:
    """A bfloat16 matrix on the CPU, once brought into the order that oneDNN reads it in."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        """``weight`` (out, in), ``bias`` (out,)."""
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight, 2 * FEW_ROWS)
        self._bias = bias

    def __call__(self, x: Tensor) -> Tensor:
        """See Linear."""
        product: Tensor = torch.ops.mkldnn._linear_pointwise(
            x, self._weight, self._bias, "none", [], ""
        )
        return product


class FourBit:
    """A GPTQ matrix on the CPU by PyTorch: 4 bit codes for few rows, and dense for many."""

    def __init__(self, matrix: Codes, *, many: Linear | None) -> None:
        """``many`` None: always 4 bit."""
        # PyTorch computes scale * (code - 8) + offset.
        scales = matrix.scales.to(torch.bfloat16)
        offsets = (8 - matrix.zeros).to(torch.bfloat16) * scales
        self._scales = torch.stack([scales, offsets], dim=-1)
        self._codes = torch.ops.aten._convert_weight_to_int4pack_for_cpu(matrix.codes, 1)
        self._group, self._bias, self._many = matrix.group, matrix.bias, many

    def __call__(self, x: Tensor) -> Tensor:
        """See Linear."""
        if self._many is not None and len(x) > FEW_ROWS:
            return self._many(x)
        product: Tensor = torch.ops.aten._weight_int4pack_mm_for_cpu(
            x, self._codes, self._group, self._scales
        )
        return product if self._bias is None else product.add_(self._bias)


class Beside:
    """Projections that stay apart, because they are unlike."""

    def __init__(self, parts: Sequence[Linear]) -> None:
        self._parts = parts

    def __call__(self, x: Tensor) -> Tensor:
        """See Linear."""
        return torch.cat([part(x) for part in self._parts], dim=-1)


def fused(*modules: Any, kernels: Kernels, dense: bool = True, make: Make | None = None) -> Linear:
    """One Linear for modules with the same input, outputs side by side.

    The modules are torch's or gptqmodel's; their weights may be freed afterwards. ``dense`` says
    whether there is memory for 4 bit matrices in bfloat16, too, where ``kernels`` have no product;
    ``make`` makes what is not quantized, None for ``of_weight``.
    """
    if not _alike(modules):
        each = [fused(module, kernels=kernels, dense=dense, make=make) for module in modules]
        return Beside(each)
    if isinstance(modules[0], torch.nn.Linear):
        return (make or of_weight)(torch.cat([module.weight for module in modules]), _bias(modules))
    if modules[0].qweight.is_cuda:
        return _on_cuda(modules)
    if not all(map(_four_bit, modules)):
        return _dequantized(modules)
    matrix = _codes(modules)
    many = dense and _bfloat16_is_fast()
    return kernels.four_bit(matrix) or FourBit(matrix, many=_dequantized(modules) if many else None)


def _dequantized(modules: Sequence[Any]) -> Linear:
    weight = torch.cat([module.dequantize_weight().T for module in modules])
    bias = _bias(modules)
    # gptqmodel keeps them in float16, which oneDNN does not mix.
    return of_weight(weight.to(torch.bfloat16), None if bias is None else bias.to(torch.bfloat16))


def _on_cuda(modules: Sequence[Any]) -> Linear:
    if len(modules) == 1:
        alone: Linear = modules[0]
        return alone
    return marlin.together(modules) or Beside(modules)


def _alike(modules: Sequence[Any]) -> bool:
    """Whether these can be one matrix; GPTQ may leave some as they are, or group them otherwise."""
    kinds = {
        (
            isinstance(module, torch.nn.Linear),
            getattr(module, "bias", None) is None,
            getattr(module, "group_size", 0),
        )
        for module in modules
    }
    return len(kinds) == 1


def of_weight(weight: Tensor, bias: Tensor | None) -> Linear:
    """The Linear for a matrix (out, in) and bias (out,)."""
    if weight.device.type == "cpu" and weight.dtype == torch.bfloat16 and _bfloat16_is_fast():
        return Packed(weight, bias)
    return Dense(weight, bias)


def _bfloat16_is_fast() -> bool:
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _bias(modules: Sequence[Any]) -> Tensor | None:
    biases = [module.bias for module in modules if getattr(module, "bias", None) is not None]
    return torch.cat(biases) if biases else None


def _four_bit(module: Any) -> bool:
    """Whether PyTorch's int4 kernel takes this matrix as it is: its columns are in order."""
    groups = torch.arange(module.in_features) // max(module.group_size, 1)
    in_order = torch.equal(module.g_idx.long(), groups)
    whole = module.group_size in (16, 32, 64, 128) and module.in_features % module.group_size == 0
    return module.bits == 4 and whole and in_order


def _codes(modules: Sequence[Any]) -> Codes:
    """Modules of 4 bits as one matrix."""
    shifts = torch.arange(0, 32, 4, dtype=torch.int32)
    codes, zeros = [], []
    for module in modules:
        words = (module.qweight.unsqueeze(1) >> shifts.view(1, 8, 1)) & 15
        codes.append(words.flatten(0, 1)[: module.in_features].T)
        words = (module.qzeros.unsqueeze(2) >> shifts.view(1, 1, 8)) & 15
        zeros.append(words.flatten(1)[:, : module.scales.shape[1]])
    return Codes(
        torch.cat(codes).contiguous(),
        torch.cat([module.scales for module in modules], dim=1),
        torch.cat(zeros, dim=1),
        group=modules[0].group_size,
        bias=_bias(modules),
    )
