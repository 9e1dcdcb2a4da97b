"""What one forward pass computes: the new tokens of some rows, one after the other, unpadded."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from workers.engines.native.wire import Ids


@dataclass(frozen=True, slots=True)
class Batch:
    """A ragged batch; T new tokens of R rows. All arrays are int32.

    A row's new tokens stand together, and after what is computed already; so rows in prefill (many
    tokens) and in decode (one) are the same thing.
    """

    slots: Ids  # (R,) whose rows these are
    adapters: Ids  # (R,) as Job.adapter, in ascending order
    tokens: Ids  # (T,) ids
    positions: Ids  # (T,) place of each in its text, from 0
    places: Ids  # (T,) where its key and value go: block * block size + offset
    starts: Ids  # (R + 1,) where in T each row begins, and T
    lengths: Ids  # (R,) tokens of the row with keys and values after this pass
    tables: Ids  # (R, most blocks) the blocks of each row, in order
    wanted: Ids  # (W,) where in T are the tokens whose logits are wanted
    wanted_slots: Ids  # (W,) whose they are
    # (A,) where in T stand tokens that the step before has chosen and only the device knows yet
    ahead: Ids
    ahead_slots: Ids  # (A,) whose they are

    @property
    def longest(self) -> int:
        """The most new tokens of a row."""
        return int(np.diff(self.starts).max())

    @property
    def adapted(self) -> list[tuple[int, slice]]:
        """Each adapter in this step, and which of the T tokens are its own."""
        if not self.adapters.any():
            return []
        numbers, rows = np.unique(self.adapters, return_index=True)
        begins = self.starts[rows].tolist()
        ends = [*begins[1:], len(self.tokens)]
        ranges = zip(numbers.tolist(), map(slice, begins, ends), strict=True)
        return [(number, own) for number, own in ranges if number]


def ragged(counts: NDArray[np.int32]) -> tuple[Ids, Ids]:
    """For groups of these sizes laid end to end: each element's group, and its place in it."""
    groups = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
    ends = np.cumsum(counts, dtype=np.int32)
    return groups, np.arange(len(groups), dtype=np.int32) - np.repeat(ends - counts, counts)
