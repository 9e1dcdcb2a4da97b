"""What a captured step reads: arrays that stay at one place of the device, filled for each step."""

import numpy as np
import torch
from torch import Tensor

from workers.engines.native.batch import Batch
from workers.engines.native.kernels import aligned
from workers.engines.native.wire import Ids

COLUMNS = 4  # tokens, positions, places, lengths


class Inputs:
    """The arrays of a decoding step of up to ``rows`` rows, all int32: first the columns, then the
    tables, so that one transfer fills as many as a batch needs.
    """

    def __init__(
        self, rows: int, *, width: int, filler: tuple[int, int], device: torch.device
    ) -> None:
        """Tables have at most ``width`` blocks. ``filler`` is for rows that only fill up a batch: a
        block that nobody else has, and the tokens of a block.
        """
        self._room = aligned(rows)
        self._width = width
        self._spare = filler[0]
        # Token 0 at position 0, of a text of length 1.
        self._filler = np.array([0, 0, filler[0] * filler[1], 1], np.int32).reshape(COLUMNS, 1)
        self._there = torch.empty(self._end(rows), dtype=torch.int32, device=device)
        self._send(np.zeros((0, width), np.int32), np.zeros((COLUMNS, 0), np.int32), rows)

    def of(self, size: int) -> tuple[Tensor, ...]:
        """What a step of ``size`` rows reads: tokens, positions, places and lengths (size,), and
        tables (size, width).

        A token that only the device knows is the ``~slot`` of who has it, below 0.
        """
        columns = self._there[: COLUMNS * self._room].view(COLUMNS, self._room)[:, :size]
        tables = self._there[COLUMNS * self._room : self._end(size)].view(size, self._width)
        return (*columns, tables)

    def fill(self, batch: Batch, size: int) -> None:
        """For a step of ``size`` rows, of which the first are those of ``batch``.

        The device does it after all that was asked of it before, and nobody waits.
        """
        tokens = batch.tokens.copy()
        tokens[batch.ahead] = ~batch.ahead_slots
        columns = np.stack([tokens, batch.positions, batch.places, batch.lengths])
        self._send(batch.tables, columns, size)

    def _send(self, tables: Ids, columns: Ids, size: int) -> None:
        rows = len(tables)
        # Page-locked memory comes from a pool, which gives it to nobody else until it is copied.
        here = torch.empty(self._end(size), dtype=torch.int32, pin_memory=self._there.is_cuda)
        numbers = here.numpy()
        all_columns = numbers[: COLUMNS * self._room].reshape(COLUMNS, self._room)
        all_columns[:, :rows] = columns
        all_columns[:, rows:] = self._filler
        all_tables = numbers[COLUMNS * self._room :].reshape(size, self._width)
        all_tables[:rows, : tables.shape[1]] = tables
        all_tables[rows:, 0] = self._spare
        self._there[: len(here)].copy_(here, non_blocking=True)

    def _end(self, size: int) -> int:
        return COLUMNS * self._room + size * self._width
