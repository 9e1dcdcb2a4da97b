"""What the tests of all kernels share."""

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from workers.engines.native.batch import Batch, ragged
from workers.engines.native.kernels import Attention, Heads, Kernels, Norm
from workers.engines.native.wire import Ids

CPU = torch.device("cpu")
POSITIONS = 600
TOLERANCE = {torch.float32: 2e-5, torch.float16: 4e-3, torch.bfloat16: 2e-2}


def near(got: Tensor, wanted: Tensor) -> bool:
    tolerance = TOLERANCE[wanted.dtype]
    return torch.allclose(got.float(), wanted.float(), rtol=tolerance, atol=tolerance)


def batch(computed: list[int], new: list[int], *, width: int = 8) -> Batch:
    """Rows that have some tokens and get some more; each has ``width`` blocks, in no order."""
    counts, before = np.array(new, np.int32), np.array(computed, np.int32)
    rows, offsets = ragged(counts)
    tables = np.random.default_rng(0).permutation(len(new) * width).reshape(len(new), width)
    positions = before[rows] + offsets
    starts = np.append(0, np.cumsum(counts)).astype(np.int32)
    nothing: Ids = np.zeros(0, np.int32)
    return Batch(
        slots=np.arange(len(new), dtype=np.int32),
        adapters=np.zeros(len(new), np.int32),
        tokens=np.zeros(len(rows), np.int32),
        positions=positions.astype(np.int32),
        places=(tables[rows, positions // 16] * 16 + positions % 16).astype(np.int32),
        starts=starts,
        lengths=before + counts,
        tables=tables.astype(np.int32),
        wanted=nothing,
        wanted_slots=nothing,
        ahead=nothing,
        ahead_slots=nothing,
    )


def attention(
    heads: Heads, *, window: int = 0, norms: bool = False, plain: bool = True
) -> Attention:
    angles = torch.outer(torch.arange(POSITIONS).float(), torch.rand(heads.dim // 2))
    made = Attention(heads, angles.cos().contiguous(), angles.sin().contiguous(), window)
    if not norms:
        return made
    query, key = (Norm(torch.rand(heads.dim) + 0.5, 1e-6, plain) for _ in range(2))
    return replace(made, query_norm=query, key_norm=key)


def attended(
    kernels: Kernels, made: Attention, batches: list[Batch], inputs: list[Tensor]
) -> list[Tensor]:
    cache = kernels.cache(64, made.heads, inputs[0].dtype)
    return [
        kernels.attend(kernels.prepare(each, made.heads), qkv.clone(), attention=made, cache=cache)
        for each, qkv in zip(batches, inputs, strict=True)
    ]
