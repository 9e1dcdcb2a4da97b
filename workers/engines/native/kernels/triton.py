"""The kernels of NVIDIA GPUs, in Triton (Tillet et al. 2019), compiled at their first use."""

from dataclasses import replace

import torch
from torch import Tensor

from workers.engines.native.batch import Batch
from workers.engines.native.kernels import Attention, Codes, Heads, LayerCache, Norm, triton_step
from workers.engines.native.kernels import triton_attention as attention_kernels
from workers.engines.native.kernels import triton_rows as rows
from workers.engines.native.kernels.triton_step import BLOCK_SIZE, Step

# Of an H100 or H200; Triton's interpreter, which tests run on, has none of its own.
PROCESSORS = 132


class TritonKernels:
    """Keys and values are (blocks, kv_heads, tokens of a block, dim): what one program reads of a
    block lies together. Tensors are contiguous.
    """

    block_size = BLOCK_SIZE

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._processors = PROCESSORS
        if device.type == "cuda":
            self._processors = torch.cuda.get_device_properties(device).multi_processor_count

    def cache(self, blocks: int, heads: Heads, dtype: torch.dtype) -> LayerCache:
        """The memory of one layer; see Kernels.cache."""
        shape = (blocks, heads.kv_heads, BLOCK_SIZE, heads.dim)
        keys, values = (torch.empty(shape, dtype=dtype, device=self._device) for _ in range(2))
        return LayerCache(keys, values)

    def prepare(self, batch: Batch, heads: Heads) -> Step:
        """The step; see Kernels.prepare."""
        step = triton_step.on_device(batch, heads, self._device)
        return step if step.tiles else self._shared(step, heads)

    def decoding(
        self,
        heads: Heads,
        *,
        positions: Tensor,
        places: Tensor,
        lengths: Tensor,
        tables: Tensor,
    ) -> Step:
        """A step of one new token per row, over tensors that stay; all int32, contiguous.

        ``positions``, ``places`` and ``lengths`` are (R,), ``tables`` (R, width). The launches of a
        step depend on these shapes alone: a CUDA graph captured with it can be replayed after the
        tensors are filled anew. Rows that only fill up the batch have length 1, and their place
        and first block are spare ones, which they may share.
        """
        return self._shared(Step(positions, places, lengths, tables), heads)

    def add_norm(self, residual: Tensor, delta: Tensor | None, norm: Norm) -> Tensor:
        """See Kernels.add_norm."""
        return rows.add_norm(residual, delta, norm)

    def gated(self, x: Tensor, activation: str) -> Tensor:
        """See Kernels.gated."""
        return rows.gated(x, activation)

    def attend(self, step: Step, qkv: Tensor, *, attention: Attention, cache: LayerCache) -> Tensor:
        """See Kernels.attend."""
        rows.place(step, qkv, attention=attention, cache=cache)
        attended = attention_kernels.ragged if step.tiles else attention_kernels.decoded
        return attended(step, qkv, attention=attention, cache=cache)

    def four_bit(self, matrix: Codes) -> None:
        """See Kernels.four_bit: Marlin multiplies on CUDA."""

    def _shared(self, step: Step, heads: Heads) -> Step:
        splits = triton_step.splits(step.tables, heads, processors=self._processors)
        return replace(step, splits=splits)
