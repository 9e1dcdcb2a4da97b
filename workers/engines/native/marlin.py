"""GPTQ matrices on CUDA: the Marlin kernel (Frantar et al. 2024), as gptqmodel loads it.

Marlin's layout keeps columns in tiles of 64, one after the other in every row of tiles, and orders
scales within 64 columns and biases within 32. So matrices with the same input lie side by side when
their tensors do.
"""

from collections.abc import Callable, Sequence
from typing import Any

import structlog
import torch
from torch import Tensor

TILE_COLUMNS = 64
# Of random input, to see on the device itself whether a product of several is that of each.
ROWS = 64
# How far a column of it may be off, relative to its size: roundings to float16, no wrong scale.
TOLERANCE = 2**-8

log = structlog.get_logger(__name__)


class Marlin:
    """Several modules of gptqmodel, with the same input, as one product."""

    def __init__(self, modules: Sequence[Any]) -> None:
        from gptqmodel.utils.marlin import apply_gptq_marlin_linear

        self._apply: Callable[..., Tensor] = apply_gptq_marlin_linear
        first = modules[0]
        bias = None if first.bias is None else torch.cat([each.bias for each in modules])
        self._matrix: dict[str, Any] = {
            "weight": torch.cat([each.qweight for each in modules], dim=1),
            "weight_scale": torch.cat([each.scales for each in modules], dim=1),
            "weight_zp": first.qzeros,
            "g_idx": first.g_idx,
            "g_idx_sort_indices": first.g_idx_sort_indices,
            "workspace": first.workspace,
            "wtype": first.weight_type,
            "output_size_per_partition": sum(each.out_features for each in modules),
            "input_size_per_partition": first.in_features,
            "is_k_full": first.is_k_full,
            "bias": bias,
            "use_fp32_reduce": first.fp32,
        }

    def __call__(self, x: Tensor) -> Tensor:
        """(rows, in) to (rows, out), the modules' outputs side by side."""
        return self._apply(input=x, **self._matrix)


@torch.inference_mode()
def together(modules: Sequence[Any]) -> Marlin | None:
    """These as one product; None where that cannot be, or does not give what each gives alone.

    Their weights may be freed afterwards.
    """
    if not all(map(_whole, modules)) or len({module.bits for module in modules}) > 1:
        return None
    first = modules[0]
    x = torch.randn(ROWS, first.in_features).to(first.scales.device, first.scales.dtype)
    wanted = torch.cat([module(x) for module in modules], dim=-1).float()
    product = Marlin(modules)
    off = (product(x).float() - wanted).norm(dim=0)
    if bool((off <= TOLERANCE * wanted.norm(dim=0)).all()):
        return product
    log.warning("engine.marlin_apart", reason="The product of several matrices is not theirs.")
    return None


def _whole(module: Any) -> bool:
    """Whether it is a Marlin matrix of whole tiles, whose rows are in order."""
    if getattr(module, "QUANT_TYPE", "") != "marlin":
        return False
    padded = module._marlin_tile_padding is not None or module.out_features % TILE_COLUMNS
    return not padded and not module.desc_act
