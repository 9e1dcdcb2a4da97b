"""A step as the Triton kernels take it: int32 arrays on the device, and the shapes of launches."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from workers.engines.devices import sent
from workers.engines.native.batch import Batch, ragged
from workers.engines.native.kernels import Heads, aligned
from workers.engines.native.wire import Ids

BLOCK_SIZE = 16  # tokens
# Rows of a tile of queries, each one query of one head: what Hopper's matrix units take at once.
QUERY_ROWS = 64
# In decode the tokens of a row are shared among programs until each processor of the GPU has so
# many, which keeps its memory busy; but among no more than are quickly put together again.
PROGRAMS_EACH = 4
MOST_SPLITS = 32
# With fewer tokens each, another split costs more than it brings.
SPLIT_TOKENS = 128


@dataclass(frozen=True, slots=True)
class Tiles:
    """The new tokens of all rows, cut into tiles of queries; all int32."""

    starts: Tensor  # (R + 1,) as in Batch
    rows: Tensor  # (tiles,) the row of each
    firsts: Tensor  # (tiles,) which of the row's new tokens is the first of each


@dataclass(frozen=True, slots=True)
class Step:
    """A batch on the device; all int32.

    Without ``tiles`` every row has one new token, and no launch depends on what the tensors hold.
    """

    positions: Tensor  # (T,)
    places: Tensor  # (T,)
    lengths: Tensor  # (R,)
    tables: Tensor  # (R, width)
    splits: int = 1  # programs that share the tokens of a row, in decode
    tiles: Tiles | None = None


def queries_of(heads: Heads) -> int:
    """How many new tokens of a row a tile has; the heads that share keys lie side by side in it."""
    return max(1, QUERY_ROWS // (heads.heads // heads.kv_heads))


def splits(tables: Tensor, heads: Heads, *, processors: int) -> int:
    """Among how many programs to share a row: a power of two, by the shape of the tables alone."""
    rows, width = tables.shape
    wanted = PROGRAMS_EACH * processors // (rows * heads.kv_heads)
    useful = width * BLOCK_SIZE // SPLIT_TOKENS
    most = max(1, min(wanted, useful, MOST_SPLITS))
    return 1 << (most.bit_length() - 1)


def on_device(batch: Batch, heads: Heads, device: torch.device) -> Step:
    """The batch on the device, in one transfer."""
    arrays = [batch.positions, batch.places, batch.lengths, batch.tables]
    if batch.longest == 1:
        positions, places, lengths, tables = _sent(arrays, device)
        return Step(positions, places, lengths, tables)
    queries = queries_of(heads)
    rows, tiles = ragged(-(-np.diff(batch.starts) // queries))
    arrays += [batch.starts, rows, tiles * queries]
    positions, places, lengths, tables, *of_tiles = _sent(arrays, device)
    return Step(positions, places, lengths, tables, tiles=Tiles(*of_tiles))


def _sent(arrays: list[Ids], device: torch.device) -> list[Tensor]:
    padded = [aligned(each.size) for each in arrays]
    packed = np.zeros(sum(padded), np.int32)
    begins = (np.cumsum(padded) - padded).tolist()
    for begin, each in zip(begins, arrays, strict=True):
        packed[begin : begin + each.size] = each.ravel()
    there = sent(packed, device)
    return [
        there[begin : begin + each.size].view(each.shape)
        for begin, each in zip(begins, arrays, strict=True)
    ]
