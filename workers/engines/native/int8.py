"""Matrix products in int8: weights once per output channel, inputs per token as they come.

Half the memory of bfloat16. Each token's input is scaled by its own largest number, so a token's
product does not depend on the others in its step.
"""

from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from app.errors import ModelLoadFailed

# Codes are from -LIMIT to LIMIT.
LIMIT = 127


@runtime_checkable
class Rows(Protocol):
    """The kernels that stand before and behind such a product."""

    def quantize(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Codes uint8 (rows, size) and scales float32 (rows,) of ``x``, which is about ``scale *
        (code - 128)``. What is not finite in a row makes its scale so.
        """

    def rescale(
        self, product: Tensor, scales: Tensor, bias: Tensor | None, *, dtype: torch.dtype
    ) -> Tensor:
        """``product * scale + bias`` as ``dtype``; ``product`` (rows, size), ``scales`` (rows,) and
        ``bias`` (size,) are float32.
        """


def check_processor() -> None:
    """Raises ModelLoadFailed where these products would be wrong.

    Without VNNI, oneDNN adds two products in 16 bits, which such codes overflow, and says nothing.
    """
    if not torch.cpu._is_vnni_supported():
        raise ModelLoadFailed("Matrices in int8 need a processor with AVX-512 VNNI.")


class Int8:
    """A matrix in int8 on the CPU."""

    def __init__(self, weight: Tensor, bias: Tensor | None, *, rows: Rows) -> None:
        """``weight`` (out, in) and ``bias`` (out,) of any floating type."""
        codes, self._scales = quantized(weight)
        self._zeros = torch.zeros(len(codes), dtype=torch.int64)
        self._weight = torch.ops.onednn.qlinear_prepack(codes, None)
        self._bias = None if bias is None else bias.detach().float()
        self._rows = rows

    def __call__(self, x: Tensor) -> Tensor:
        """See Linear."""
        codes, scales = self._rows.quantize(x)
        # Unsigned codes, because processors without AMX multiply signed ones by signed weights a
        # hundred times more slowly.
        product = torch.ops.onednn.qlinear_pointwise(
            codes,
            1.0,
            LIMIT + 1,
            self._weight,
            self._scales,
            self._zeros,
            None,
            1.0,
            0,
            torch.float32,
            "none",
            [],
            "",
        )
        return self._rows.rescale(product, scales, self._bias, dtype=x.dtype)


def quantized(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Codes int8 (out, in) and scales float32 (out,) of a matrix: ``weight`` is about
    ``code * scale``.
    """
    wide = weight.detach().float()
    scales = wide.abs().amax(dim=1) / LIMIT
    # A channel of zeros has no scale.
    divisors = torch.where(scales > 0, scales, 1.0)
    return (wide / divisors.unsqueeze(1)).round_().to(torch.int8), scales
