"""Attention over paged keys and values, on the way through them (Dao et al. 2022).

Queries of the heads that share keys lie together in one tile, so keys and values are read once.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from workers.engines.native.kernels import Attention, LayerCache
from workers.engines.native.kernels.triton_step import BLOCK_SIZE, QUERY_ROWS, Step, queries_of

# Bytes of keys, and of values, that a program reads at once.
TILE_BYTES = 16384
# A tile's addresses come from the table, which takes stages, too: with fewer, what Triton makes of
# the loop asks for a tile only when it is done with the one before.
STAGES = 5
LOG2_E = tl.constexpr(1.4426950408889634)
# Of float32 alone: three products of TF32, as exact as one of float32 and much faster.
PRECISION = tl.constexpr("tf32x3")


def decoded(step: Step, qkv: Tensor, *, attention: Attention, cache: LayerCache) -> Tensor:
    """(rows, heads * dim) for one new token per row; its tokens are shared among programs, and what
    they found is put together afterwards (flash-decoding, Dao et al. 2023).
    """
    heads, rows, splits = attention.heads, len(qkv), step.splits
    out, shape = qkv.new_empty(rows, heads.heads * heads.dim), _shape(attention, qkv.dtype)
    parts, totals = out, None
    if splits > 1:
        parts = qkv.new_empty(rows, heads.heads, splits, heads.dim, dtype=torch.float32)
        totals = qkv.new_empty(rows, heads.heads, splits, dtype=torch.float32)
    _decode[(rows, heads.kv_heads, splits)](
        parts,
        totals,
        qkv,
        cache.keys,
        cache.values,
        step.lengths,
        step.tables,
        step.tables.shape[1],
        padded=max(16, triton.next_power_of_2(heads.heads // heads.kv_heads)),
        **shape,
        num_warps=4,
        num_stages=STAGES,
    )
    if totals is not None:
        _combine[(rows, heads.heads)](
            out,
            parts,
            totals,
            step.lengths,
            splits=splits,
            **{name: shape[name] for name in ("window", "heads", "dim", "width", "tile")},
        )
    return out


def ragged(step: Step, qkv: Tensor, *, attention: Attention, cache: LayerCache) -> Tensor:
    """(tokens, heads * dim) for any number of new tokens per row."""
    heads, tiles, shape = attention.heads, step.tiles, _shape(attention, qkv.dtype)
    assert tiles is not None
    out = qkv.new_empty(len(qkv), heads.heads * heads.dim)
    _ragged[(len(tiles.rows), heads.kv_heads)](
        out,
        qkv,
        cache.keys,
        cache.values,
        tiles.starts,
        tiles.rows,
        tiles.firsts,
        step.lengths,
        step.tables,
        step.tables.shape[1],
        queries=queries_of(heads),
        padded=max(QUERY_ROWS, triton.next_power_of_2(heads.heads // heads.kv_heads)),
        **shape,
        # With 4, sums of wide heads would not fit into registers.
        num_warps=4 if shape["width"] <= 128 else 8,
        num_stages=STAGES,
    )
    return out


def _shape(attention: Attention, dtype: torch.dtype) -> dict[str, Any]:
    """What the kernels are compiled for."""
    heads = attention.heads
    width = max(16, triton.next_power_of_2(heads.dim))
    return {
        "scale": heads.scale,
        "softcap": heads.softcap,
        "window": attention.window,
        "heads": heads.heads,
        "kv_heads": heads.kv_heads,
        "dim": heads.dim,
        "width": width,
        "block_size": BLOCK_SIZE,
        "tile": min(max(TILE_BYTES // (width * dtype.itemsize), 16), 128),
    }


@triton.jit
def _share(tokens, splits, tile: tl.constexpr):
    """How many tokens each split has: whole tiles, so that short rows take few splits."""
    return tl.cdiv(tl.cdiv(tokens, tile), splits) * tile


@triton.jit
def _capped(scores, softcap: tl.constexpr):
    # tanh(x) is 1 - 2 / (exp(2 x) + 1), which large numbers do not break.
    return softcap - 2 * softcap / (tl.exp(scores * (2 / softcap)) + 1)


@triton.jit
def _added(scores, v, sums, top, total):
    """Softmax on the way (Milakov and Gimelshein 2018): what is summed so far, and this tile."""
    best = tl.maximum(top, tl.max(scores, 1))
    # A query may see nothing yet, and minus infinity from itself is no number.
    base = tl.where(best == float("-inf"), 0.0, best)
    weights = tl.exp2(scores - base[:, None])
    fade = tl.exp2(top - base)
    sums = tl.dot(weights.to(v.dtype), v, sums * fade[:, None], input_precision=PRECISION)
    return sums, best, total * fade + tl.sum(weights, 1)


@triton.jit
def _attended(
    q,
    position,
    first,
    last,
    keys,
    values,
    table,
    head,
    rows: tl.constexpr,
    scale: tl.constexpr,
    softcap: tl.constexpr,
    window: tl.constexpr,
    kv_heads: tl.constexpr,
    dim: tl.constexpr,
    width: tl.constexpr,
    block_size: tl.constexpr,
    tile: tl.constexpr,
):
    """Queries (rows, width) against tokens of one row, from first to last: weighted sums of values
    (rows, width), the highest scores in powers of two, the sums of weights relative to them.
    """
    sums = tl.zeros((rows, width), tl.float32)
    top = tl.full((rows,), float("-inf"), tl.float32)
    total = tl.zeros((rows,), tl.float32)
    d = tl.arange(0, width)[None, :]
    for begin in range(first, last, tile):
        token = begin + tl.arange(0, tile)
        inside = token < last
        block = tl.load(table + token // block_size, mask=inside, other=0).to(tl.int64)
        place = ((block * kv_heads + head) * block_size + token % block_size) * dim
        # What lies behind the last token may be no numbers; a weight of 0 would not undo them.
        there = inside[:, None] & (d < dim)
        k = tl.load(keys + place[:, None] + d, mask=there, other=0.0)
        scores = tl.dot(q, tl.trans(k), input_precision=PRECISION) * scale
        if softcap > 0.0:
            scores = _capped(scores, softcap)
        seen = inside[None, :] & (token[None, :] <= position[:, None])
        if window:
            seen = seen & (token[None, :] > position[:, None] - window)
        scores = tl.where(seen, scores * LOG2_E, float("-inf"))
        v = tl.load(values + place[:, None] + d, mask=there, other=0.0)
        sums, top, total = _added(scores, v, sums, top, total)
    return sums, top, total


@triton.jit(do_not_specialize=["table_width"])
def _decode(
    out,
    totals,
    qkv,
    keys,
    values,
    lengths,
    tables,
    table_width,
    padded: tl.constexpr,
    scale: tl.constexpr,
    softcap: tl.constexpr,
    window: tl.constexpr,
    heads: tl.constexpr,
    kv_heads: tl.constexpr,
    dim: tl.constexpr,
    width: tl.constexpr,
    block_size: tl.constexpr,
    tile: tl.constexpr,
):
    row, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    split, splits = tl.program_id(2), tl.num_programs(2)
    length = tl.load(lengths + row)
    first = tl.maximum(length - window, 0) if window else 0
    share = _share(length - first, splits, tile)
    first += split * share
    last = tl.minimum(first + share, length)
    if first >= last:
        return
    group: tl.constexpr = heads // kv_heads
    m = tl.arange(0, padded)[:, None]
    d = tl.arange(0, width)[None, :]
    inside = (m < group) & (d < dim)
    at = row * (heads + 2 * kv_heads) + head * group + m
    q = tl.load(qkv + at * dim + d, mask=inside, other=0.0)
    position = tl.full((padded,), 0, tl.int32) + length - 1
    table = tables + row * table_width
    sums, top, total = _attended(
        q, position, first, last, keys, values, table, head,
        padded, scale, softcap, window, kv_heads, dim, width, block_size, tile,
    )  # fmt: skip
    to = (row * heads + head * group + m) * splits + split
    tl.store(out + to * dim + d, (sums / total[:, None]).to(out.dtype.element_ty), mask=inside)
    if totals is not None:
        tl.store(totals + to, (top + tl.log2(total))[:, None], mask=m < group)


@triton.jit
def _combine(
    out,
    parts,
    totals,
    lengths,
    splits: tl.constexpr,
    window: tl.constexpr,
    heads: tl.constexpr,
    dim: tl.constexpr,
    width: tl.constexpr,
    tile: tl.constexpr,
):
    """Put together what the splits of a row found, weighted by their sums of weights."""
    row, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    tokens = tl.load(lengths + row)
    if window:
        tokens = tl.minimum(tokens, window)
    s = tl.arange(0, splits)
    used = s * _share(tokens, splits, tile) < tokens
    d = tl.arange(0, width)
    at = (row * heads + head) * splits + s
    total = tl.load(totals + at, mask=used, other=float("-inf"))
    weight = tl.exp2(total - tl.max(total, 0))[:, None]
    there = used[:, None] & (d < dim)[None, :]
    part = tl.load(parts + at[:, None] * dim + d[None, :], mask=there, other=0.0)
    result = tl.sum(part * weight, 0) / tl.sum(weight, 0)
    tl.store(out + (row * heads + head) * dim + d, result.to(out.dtype.element_ty), mask=d < dim)


@triton.jit(do_not_specialize=["table_width"])
def _ragged(
    out,
    qkv,
    keys,
    values,
    starts,
    tile_rows,
    tile_firsts,
    lengths,
    tables,
    table_width,
    queries: tl.constexpr,
    padded: tl.constexpr,
    scale: tl.constexpr,
    softcap: tl.constexpr,
    window: tl.constexpr,
    heads: tl.constexpr,
    kv_heads: tl.constexpr,
    dim: tl.constexpr,
    width: tl.constexpr,
    block_size: tl.constexpr,
    tile: tl.constexpr,
):
    row, head = tl.load(tile_rows + tl.program_id(0)).to(tl.int64), tl.program_id(1)
    begin = tl.load(tile_firsts + tl.program_id(0))
    start = tl.load(starts + row)
    end = tl.minimum(begin + queries, tl.load(starts + row + 1) - start)
    before = tl.load(lengths + row) - (tl.load(starts + row + 1) - start)
    group: tl.constexpr = heads // kv_heads
    m = tl.arange(0, padded)
    query = begin + m // group
    asked = (m < queries * group) & (query < end)
    d = tl.arange(0, width)[None, :]
    inside = asked[:, None] & (d < dim)
    token = (start + query).to(tl.int64)
    which = head * group + m % group
    at = token * (heads + 2 * kv_heads) + which
    q = tl.load(qkv + at[:, None] * dim + d, mask=inside, other=0.0)
    first = tl.maximum(before + begin - window + 1, 0) if window else 0
    table = tables + row * table_width
    sums, _top, total = _attended(
        q, before + query, first, before + end, keys, values, table, head,
        padded, scale, softcap, window, kv_heads, dim, width, block_size, tile,
    )  # fmt: skip
    to = (token * heads + which)[:, None] * dim + d
    tl.store(out + to, (sums / total[:, None]).to(out.dtype.element_ty), mask=inside)
