"""CUDA graphs: decoding steps are captured once, for some numbers of rows, and then replayed.

A step of a large model is several hundred launches. Python needs milliseconds for them, longer
than the GPU needs for the few rows of a small batch; a replay is one call.
"""

from bisect import bisect_left
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from workers.engines.native.batch import Batch
from workers.engines.native.inputs import Inputs
from workers.engines.native.kernels import Replayable
from workers.engines.native.models.llama import Llama

# From here on batches are filled up to multiples of it: the tiles of the matrix units have so many
# rows anyway, and more graphs would only take longer to capture.
TILE_ROWS = 16

Compute = Callable[[], Tensor]
# Makes of a computation one that can be repeated; its result is overwritten each time.
Capture = Callable[[Compute], Compute]


class Capturing:
    """Capture for a CUDA device; all graphs share one pool of memory, since one runs at a time."""

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()
        self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]

    def __call__(self, compute: Compute) -> Compute:
        """See Capture."""
        # Once before: kernels are compiled and libraries take their workspaces, which a capture
        # must not do.
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            compute()
        torch.cuda.current_stream().wait_stream(self._stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool, stream=self._stream):
            result = compute()

        def replay() -> Tensor:
            graph.replay()
            return result

        return replay


class Graphs:
    """The decoding steps of a model, up to its head.

    The head stays outside: its logits are the largest tensor of a step, and a graph keeps its
    result for good. So only what is replayed next overwrites what the head reads, and that waits
    for the head, as for everything before it in the stream.
    """

    def __init__(
        self,
        model: Llama,
        kernels: Replayable,
        *,
        rows: int,
        width: int,
        spare: int,
        capture: Capture,
    ) -> None:
        """Capture steps of up to ``rows`` rows, one for each slot, whose tables have at most
        ``width`` blocks; ``spare`` is a block that nobody has.
        """
        self._model, self._kernels = model, kernels
        self._inputs = Inputs(
            rows,
            width=width,
            filler=(spare, kernels.block_size),
            device=model.device,
        )
        self._newest = torch.zeros(rows, dtype=torch.int32, device=model.device)
        self.sizes = buckets(rows)
        # The largest first, so that the smaller ones find their memory in the pool.
        self._steps = {size: capture(partial(self._hidden, size)) for size in self.sizes[::-1]}

    def takes(self, batch: Batch) -> bool:
        """Whether this is a batch that was captured: each row has one token, whose logits are
        wanted, and no adapter.
        """
        rows = len(batch.slots)
        if batch.adapters.any():
            return False
        return len(batch.tokens) == rows == len(batch.wanted) and rows <= self.sizes[-1]

    def run(self, batch: Batch, newest: Tensor) -> Tensor:
        """The logits of a batch that it takes; see Runner.run."""
        rows = len(batch.slots)
        size = self.sizes[bisect_left(self.sizes, rows)]
        self._inputs.fill(batch, size)
        if len(batch.ahead):
            self._newest.copy_(newest)
        return self._model.logits(self._steps[size]()[:rows])

    def _hidden(self, size: int) -> Tensor:
        given, positions, places, lengths, tables = self._inputs.of(size)
        known = self._newest.index_select(0, (~given).clamp(min=0))
        tokens = torch.where(given < 0, known, given)
        step = self._kernels.decoding(
            self._model.heads,
            positions=positions,
            places=places,
            lengths=lengths,
            tables=tables,
        )
        return self._model.hidden(tokens, step, None)


def buckets(most: int) -> list[int]:
    """The numbers of rows that are captured, rising to ``most``; as nano-vllm has them."""
    few = [size for size in (1, 2, 4, 8) if size < most]
    return [*few, *range(TILE_ROWS, most, TILE_ROWS), most]
