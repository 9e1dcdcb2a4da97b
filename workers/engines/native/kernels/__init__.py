"""What a step does between its matrix products: norms, rotation, attention, gates.

``reference`` says in PyTorch what each does and runs anywhere; ``compiled`` is the same in C for
the CPU, and ``triton`` in Triton for NVIDIA GPUs. ``choose`` picks.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import structlog
import torch
from torch import Tensor

from workers.engines.native.batch import Batch

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Norm:
    """A root mean square norm (Zhang and Sennrich 2019): ``weight`` float32 (size,).

    ``plain`` rounds to the model's dtype before the weight is applied, as Llama does, else after.
    """

    weight: Tensor
    eps: float
    plain: bool = True


@dataclass(frozen=True, slots=True)
class Heads:
    """The shape of attention: ``heads`` of queries share ``kv_heads`` of ``dim`` numbers each.

    ``softcap`` bounds the scores by a tanh (Gemma 2), 0.0 is off.
    """

    heads: int
    kv_heads: int
    dim: int
    scale: float
    softcap: float = 0.0


@dataclass(frozen=True, slots=True)
class Attention:
    """The attention of one layer, between the projections.

    ``cos`` and ``sin`` are float32 (positions, dim / 2); ``window`` is how many tokens a token
    sees, itself included, 0 for all before it; norms are of single heads.
    """

    heads: Heads
    cos: Tensor
    sin: Tensor
    window: int = 0
    query_norm: Norm | None = None
    key_norm: Norm | None = None


@dataclass(frozen=True, slots=True)
class LayerCache:
    """Keys and values of one layer; each kind of kernels has a layout of its own."""

    keys: Tensor
    values: Tensor


@dataclass(frozen=True, slots=True)
class Codes:
    """A GPTQ matrix of 4 bits: a weight is ``scale * (code - zero)``.

    ``codes`` (out, in), ``scales`` and ``zeros`` (groups, out), ``bias`` (out,); ``group`` weights
    of an output, neighbours, share a scale and a zero.
    """

    codes: Tensor
    scales: Tensor
    zeros: Tensor
    group: int
    bias: Tensor | None


class Kernels(Protocol):
    """The operations of one device; tensors are of the model's dtype unless said otherwise."""

    block_size: int  # tokens

    def cache(self, blocks: int, heads: Heads, dtype: torch.dtype) -> LayerCache:
        """The memory of one layer for so many blocks."""

    def prepare(self, batch: Batch, heads: Heads) -> Any:
        """What ``attend`` needs to know of a step, the same for all layers."""

    def add_norm(self, residual: Tensor, delta: Tensor | None, norm: Norm) -> Tensor:
        """Add ``delta`` to ``residual`` in place, then norm it; all (tokens, size)."""

    def gated(self, x: Tensor, activation: str) -> Tensor:
        """``act(gate) * up`` of (tokens, 2 * size) as (tokens, size); act is silu or gelu_tanh."""

    def attend(self, step: Any, qkv: Tensor, *, attention: Attention, cache: LayerCache) -> Tensor:
        """Keep the new keys and values, and attend: (tokens, heads * dim).

        ``qkv`` (tokens, (heads + 2 * kv_heads) * dim) may be changed.
        """

    def four_bit(self, matrix: Codes) -> Callable[[Tensor], Tensor] | None:
        """``x @ weight.T + bias`` of bfloat16 (rows, in), None where PyTorch's is the best."""


@runtime_checkable
class Replayable(Kernels, Protocol):
    """Kernels whose decoding steps can be captured as CUDA graphs: what they launch depends on the
    shapes of tensors alone.
    """

    def decoding(
        self, heads: Heads, *, positions: Tensor, places: Tensor, lengths: Tensor, tables: Tensor
    ) -> Any:
        """What ``prepare`` makes of a batch with one new token a row, over tensors that stay.

        All are int32 and on the device: (R,), and the tables (R, width). They may be filled anew
        before a replay; of a table only what its row's length needs is read.
        """


def aligned(numbers: int) -> int:
    """So many int32, or a few more, that what is packed behind them begins at a multiple of 16
    bytes. Elsewhere Triton would compile a kernel once more.
    """
    return -(-numbers // 4) * 4


def choose(device: torch.device, *, sizes: tuple[int, ...]) -> Kernels:
    """The best kernels for a device and a model with vectors of these ``sizes``."""
    from workers.engines.native.kernels.reference import ReferenceKernels

    if device.type == "cuda":
        try:
            from workers.engines.native.kernels.triton import TritonKernels
        except ImportError as error:
            log.warning("engine.no_triton", reason=str(error))
        else:
            return TritonKernels(device)
    if device.type == "cpu" and all(size % 16 == 0 for size in sizes):
        from workers.engines.native.kernels import compiled

        try:
            return compiled.CompiledKernels()
        except compiled.NoCompiler as error:
            log.warning("engine.no_compiler", reason=str(error))
    return ReferenceKernels(device)
