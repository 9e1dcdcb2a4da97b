"""What a step does with each token alone: norms, gates, and rotation on the way into the cache.

Results are rounded to the model's dtype where the reference rounds them.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from workers.engines.native.kernels import Attention, LayerCache, Norm
from workers.engines.native.kernels.triton_step import BLOCK_SIZE, Step

# Numbers that a thread has of a row: one read of 16 bytes in a dtype of 16 bits.
NUMBERS_EACH = 8
GATES = 1024  # numbers of a program
HEADS = 8  # of a program


def add_norm(residual: Tensor, delta: Tensor | None, norm: Norm) -> Tensor:
    """See Kernels.add_norm; one program a token."""
    tokens, size = residual.shape
    width = triton.next_power_of_2(size)
    out = torch.empty_like(residual)
    _add_norm[(tokens,)](
        out,
        residual,
        delta,
        norm.weight,
        size=size,
        eps=norm.eps,
        plain=norm.plain,
        width=width,
        num_warps=min(max(width // (32 * NUMBERS_EACH), 1), 16),
    )
    return out


def gated(x: Tensor, activation: str) -> Tensor:
    """See Kernels.gated."""
    tokens, size = len(x), x.shape[1] // 2
    out = x.new_empty(tokens, size)
    grid = (tokens, triton.cdiv(size, GATES))
    _gated[grid](out, x, size=size, gelu=activation != "silu", width=GATES)
    return out


def place(step: Step, qkv: Tensor, *, attention: Attention, cache: LayerCache) -> None:
    """Norm and rotate new queries (in place) and keys; keys and values go into the cache."""
    heads, query, key = attention.heads, attention.query_norm, attention.key_norm
    grid = (len(qkv), triton.cdiv(heads.heads + 2 * heads.kv_heads, HEADS))
    _place[grid](
        qkv,
        cache.keys,
        cache.values,
        step.positions,
        step.places,
        attention.cos,
        attention.sin,
        None if query is None else query.weight,
        None if key is None else key.weight,
        eps=0.0 if query is None else query.eps,
        plain=query is None or query.plain,
        heads=heads.heads,
        kv_heads=heads.kv_heads,
        half=heads.dim // 2,
        block_size=BLOCK_SIZE,
        tile=HEADS,
        width=triton.next_power_of_2(heads.dim // 2),
    )


@triton.jit
def _scaled(x, scale, weight, plain: tl.constexpr):
    wide = x.to(tl.float32) * scale
    if plain:
        wide = wide.to(x.dtype).to(tl.float32)
    return (wide * weight).to(x.dtype)


@triton.jit
def _add_norm(
    out,
    residual,
    delta,
    weight,
    size: tl.constexpr,
    eps: tl.constexpr,
    plain: tl.constexpr,
    width: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64) * size
    i = tl.arange(0, width)
    inside = i < size
    x = tl.load(residual + row + i, mask=inside, other=0.0)
    if delta is not None:
        more = tl.load(delta + row + i, mask=inside, other=0.0)
        x = (x.to(tl.float32) + more.to(tl.float32)).to(x.dtype)
        tl.store(residual + row + i, x, mask=inside)
    wide = x.to(tl.float32)
    scale = tl.rsqrt(tl.sum(wide * wide, 0) / size + eps)
    weights = tl.load(weight + i, mask=inside, other=0.0)
    tl.store(out + row + i, _scaled(x, scale, weights, plain), mask=inside)


@triton.jit
def _gated(out, x, size: tl.constexpr, gelu: tl.constexpr, width: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    i = tl.program_id(1) * width + tl.arange(0, width)
    inside = i < size
    gate = tl.load(x + row * 2 * size + i, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(x + row * 2 * size + size + i, mask=inside, other=0.0)
    if gelu:
        # (1 + tanh(u)) / 2 is the sigmoid of 2 u.
        curve = gate * tl.sigmoid(1.5957691216057308 * (gate + 0.044715 * gate * gate * gate))
    else:
        curve = gate * tl.sigmoid(gate)
    result = curve.to(up.dtype).to(tl.float32) * up.to(tl.float32)
    tl.store(out + row * size + i, result.to(up.dtype), mask=inside)


@triton.jit
def _normed(first, second, query_weight, key_weight, is_query, i, eps, half, plain: tl.constexpr):
    """The norm of heads that lie in two halves, (heads, width) each."""
    a, b = first.to(tl.float32), second.to(tl.float32)
    squares = tl.sum(a * a, 1) + tl.sum(b * b, 1)
    scale = tl.rsqrt(squares / (2 * half) + eps)[:, None]
    inside = i < half
    of_query = tl.load(query_weight + i, mask=inside, other=0.0)
    of_key = tl.load(key_weight + i, mask=inside, other=0.0)
    first = _scaled(first, scale, tl.where(is_query, of_query, of_key), plain)
    of_query = tl.load(query_weight + half + i, mask=inside, other=0.0)
    of_key = tl.load(key_weight + half + i, mask=inside, other=0.0)
    return first, _scaled(second, scale, tl.where(is_query, of_query, of_key), plain)


@triton.jit
def _place(
    qkv,
    keys,
    values,
    positions,
    places,
    cos,
    sin,
    query_weight,
    key_weight,
    eps: tl.constexpr,
    plain: tl.constexpr,
    heads: tl.constexpr,
    kv_heads: tl.constexpr,
    half: tl.constexpr,
    block_size: tl.constexpr,
    tile: tl.constexpr,
    width: tl.constexpr,
):
    token = tl.program_id(0)
    head = tl.program_id(1) * tile + tl.arange(0, tile)[:, None]
    i = tl.arange(0, width)[None, :]
    inside = (head < heads + 2 * kv_heads) & (i < half)
    row = qkv + token.to(tl.int64) * ((heads + 2 * kv_heads) * 2 * half)
    at = row + head * (2 * half) + i
    left = tl.load(at, mask=inside, other=0.0)
    right = tl.load(at + half, mask=inside, other=0.0)
    first, second = left, right
    if query_weight is not None:
        first, second = _normed(
            left, right, query_weight, key_weight, head < heads, i, eps, half, plain
        )
    turn = tl.load(positions + token) * half + i
    c = tl.load(cos + turn, mask=i < half, other=0.0)
    s = tl.load(sin + turn, mask=i < half, other=0.0)
    a, b = first.to(tl.float32), second.to(tl.float32)
    first, second = (a * c - b * s).to(left.dtype), (b * c + a * s).to(left.dtype)
    tl.store(at, first, mask=inside & (head < heads))
    tl.store(at + half, second, mask=inside & (head < heads))
    at_cache = tl.load(places + token).to(tl.int64)
    block, offset = at_cache // block_size, at_cache % block_size
    # Of queries, this points anywhere; they are not stored there.
    kv_head = (head - heads) % kv_heads
    there = ((block * kv_heads + kv_head) * block_size + offset) * (2 * half) + i
    is_key = inside & (head >= heads) & (head < heads + kv_heads)
    tl.store(keys + there, first, mask=is_key)
    tl.store(keys + there + half, second, mask=is_key)
    is_value = inside & (head >= heads + kv_heads)
    tl.store(values + there, left, mask=is_value)
    tl.store(values + there + half, right, mask=is_value)
