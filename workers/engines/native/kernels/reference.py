"""The kernels in plain PyTorch, for any device: slow, and what the others are measured against."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn.functional import gelu, scaled_dot_product_attention, silu

from workers.engines.native.batch import Batch
from workers.engines.native.kernels import Attention, Codes, Heads, LayerCache, Norm


@dataclass(frozen=True, slots=True)
class Step:
    """A batch, with its arrays where the model is."""

    batch: Batch
    positions: Tensor
    places: Tensor
    tables: Tensor


class ReferenceKernels:
    """Keys and values are (blocks, tokens of a block, kv_heads, dim)."""

    block_size = 16

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def cache(self, blocks: int, heads: Heads, dtype: torch.dtype) -> LayerCache:
        """The memory of one layer; see Kernels.cache."""
        shape = (blocks, self.block_size, heads.kv_heads, heads.dim)
        keys, values = (torch.empty(shape, dtype=dtype, device=self._device) for _ in range(2))
        return LayerCache(keys, values)

    def prepare(self, batch: Batch, heads: Heads) -> Step:
        """The step; see Kernels.prepare."""
        arrays = (batch.positions, batch.places, batch.tables)
        return Step(batch, *(torch.from_numpy(each).long().to(self._device) for each in arrays))

    def add_norm(self, residual: Tensor, delta: Tensor | None, norm: Norm) -> Tensor:
        """See Kernels.add_norm."""
        if delta is not None:
            residual += delta
        return normed(residual, norm)

    def gated(self, x: Tensor, activation: str) -> Tensor:
        """See Kernels.gated."""
        gate, up = x.chunk(2, dim=-1)
        return (silu(gate) if activation == "silu" else gelu(gate, approximate="tanh")) * up

    def attend(self, step: Step, qkv: Tensor, *, attention: Attention, cache: LayerCache) -> Tensor:
        """See Kernels.attend; row by row."""
        heads = attention.heads
        sizes = [heads.heads, heads.kv_heads, heads.kv_heads]
        queries, keys, values = torch.split(qkv.view(len(qkv), -1, heads.dim), sizes, dim=1)
        queries = rotated(queries, step.positions, norm=attention.query_norm, attention=attention)
        keys = rotated(keys, step.positions, norm=attention.key_norm, attention=attention)
        cache.keys.view(-1, heads.kv_heads, heads.dim)[step.places] = keys
        cache.values.view(-1, heads.kv_heads, heads.dim)[step.places] = values
        starts = step.batch.starts.tolist()
        out = [
            self._attend_row(queries[start:end], step, row, attention, cache)
            for row, (start, end) in enumerate(pairwise(starts))
        ]
        return torch.cat(out).reshape(len(qkv), -1)

    def quantize(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """See int8.Rows."""
        wide = x.float()
        most = wide.abs().amax(dim=1)
        inverse = torch.where(most > 0, 127 / most, 0.0)
        codes = (wide * inverse.unsqueeze(1)).round_().add_(128)
        return codes.to(torch.uint8), most / 127

    def rescale(
        self, product: Tensor, scales: Tensor, bias: Tensor | None, *, dtype: torch.dtype
    ) -> Tensor:
        """See int8.Rows."""
        wide = product * scales.unsqueeze(1)
        return (wide if bias is None else wide + bias).to(dtype)

    def four_bit(self, matrix: Codes) -> Callable[[Tensor], Tensor] | None:
        """See Kernels.four_bit."""
        return None

    def _attend_row(
        self, queries: Tensor, step: Step, row: int, attention: Attention, cache: LayerCache
    ) -> Tensor:
        length = int(step.batch.lengths[row])
        blocks = step.tables[row, : -(-length // self.block_size)]
        keys, values = (each[blocks].flatten(0, 1)[:length] for each in (cache.keys, cache.values))
        position = torch.arange(length - len(queries), length, device=self._device).unsqueeze(1)
        seen = torch.arange(length, device=self._device).unsqueeze(0)
        mask = seen <= position
        if attention.window:
            mask &= seen > position - attention.window
        if attention.heads.softcap:
            return _capped(queries, keys, values, mask, attention.heads)
        out = scaled_dot_product_attention(
            queries.transpose(0, 1).unsqueeze(0),
            keys.transpose(0, 1).unsqueeze(0),
            values.transpose(0, 1).unsqueeze(0),
            attn_mask=mask,
            scale=attention.heads.scale,
            enable_gqa=True,
        )
        return out[0].transpose(0, 1)


def normed(x: Tensor, norm: Norm) -> Tensor:
    """A root mean square norm over the last axis, in float32."""
    wide = x.float()
    wide = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + norm.eps)
    if norm.plain:
        wide = wide.to(x.dtype).float()
    return (wide * norm.weight).to(x.dtype)


def rotated(x: Tensor, positions: Tensor, *, norm: Norm | None, attention: Attention) -> Tensor:
    """Norm and rotary embedding (Su et al. 2021) of (tokens, heads, dim)."""
    if norm is not None:
        x = normed(x, norm)
    cos, sin = (table[positions].unsqueeze(1) for table in (attention.cos, attention.sin))
    first, second = x.float().chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1).to(x.dtype)


def _capped(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor, heads: Heads) -> Tensor:
    group = heads.heads // heads.kv_heads
    keys, values = (each.repeat_interleave(group, dim=1).float() for each in (keys, values))
    scores = torch.einsum("qhd,khd->hqk", queries.float(), keys) * heads.scale
    scores = torch.tanh(scores / heads.softcap) * heads.softcap
    weights = scores.masked_fill(~mask, float("-inf")).softmax(-1)
    return torch.einsum("hqk,khd->qhd", weights, values).to(queries.dtype)
