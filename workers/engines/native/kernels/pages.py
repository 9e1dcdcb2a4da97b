"""Memory in huge pages, for what a step reads from end to end.

A step reads all weights. With pages of 4 KiB, finding one takes longer than reading it, above all
on a virtual machine (docs/engine.md has the figures).
"""

import mmap
from contextlib import suppress

import torch
from torch import Tensor

CHUNK = 32 << 20  # bytes: many pages of 2 MiB, whatever address it gets
LINE = 64  # bytes that the processor reads at once


class Pages:
    """Gives out memory that is freed when nothing of the same chunk is used any more."""

    def __init__(self) -> None:
        self._chunk, self._used = mmap.mmap(-1, mmap.PAGESIZE), mmap.PAGESIZE

    def keep(self, tensor: Tensor) -> Tensor:
        """A copy of the tensor there, contiguous."""
        size = tensor.nbytes
        if self._used + size > len(self._chunk):
            self._chunk, self._used = _mapped(max(size, CHUNK)), 0
        place = torch.frombuffer(
            self._chunk, dtype=tensor.dtype, count=tensor.numel(), offset=self._used
        )
        self._used += -(-size // LINE) * LINE
        return place.view(tensor.shape).copy_(tensor)


def _mapped(size: int) -> mmap.mmap:
    try:
        chunk = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except OSError as error:
        raise MemoryError(f"No memory for {size} bytes of a matrix.") from error
    # Linux alone has them, and only if so configured.
    with suppress(AttributeError, OSError):
        chunk.madvise(mmap.MADV_HUGEPAGE)
    return chunk
