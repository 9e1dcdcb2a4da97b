"""The kernels of the CPU: ``kernels.c`` and ``fourbit.c``, compiled when an engine starts.

Compiling for this processor takes about a second, so nothing is kept that could be stale.
"""

import ctypes
import shutil
import subprocess
import tempfile
from ctypes import POINTER, Structure, byref, c_float, c_int64, c_long, c_void_p
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from workers.engines.native.batch import Batch
from workers.engines.native.kernels import Attention, Codes, Heads, LayerCache, Norm, fourbit
from workers.engines.native.kernels.fourbit import FourBitProduct, Means
from workers.engines.native.kernels.pages import Pages
from workers.engines.native.wire import Ids

SOURCES = [str(Path(__file__).with_name(name)) for name in ("kernels.c", "fourbit.c")]
COMPILERS = ("cc", "gcc", "clang")
PATIENCE_SECONDS = 120
FLAGS = ("-O3", "-march=native", "-fopenmp", "-shared", "-fPIC")
PREFIXES = {torch.float32: "f32", torch.bfloat16: "bf16"}


class NoCompiler(Exception):
    """There is no C compiler here, or it cannot make the kernels."""


class _Step(Structure):
    """As in kernels.c."""

    _fields_ = [
        *((name, c_int64) for name in ("tokens", "heads", "kv_heads", "dim", "tiles")),
        *((name, c_int64) for name in ("table_width", "plain", "window")),
        *((name, c_void_p) for name in ("positions", "places", "starts", "tables")),
        *((name, c_void_p) for name in ("tile_rows", "tile_firsts")),
        *((name, c_float) for name in ("scale", "softcap", "eps")),
        *((name, c_void_p) for name in ("cos", "sin")),
    ]


@dataclass(frozen=True, slots=True)
class Step:
    """A batch in the words of kernels.c, and the arrays that must live as long."""

    struct: _Step
    kept: tuple[Ids, ...]


class CompiledKernels:
    """Keys are (blocks, kv_heads, dim, tokens), values (blocks, kv_heads, tokens, dim)."""

    block_size = 16  # as in kernels.c

    def __init__(self) -> None:
        """Raises NoCompiler."""
        self.library = _compiled()
        self.means = Means(self.library.four_bit_means())
        self.pages = Pages()

    def cache(self, blocks: int, heads: Heads, dtype: torch.dtype) -> LayerCache:
        """The memory of one layer; see Kernels.cache."""
        size = self.block_size
        keys = torch.zeros(blocks, heads.kv_heads, heads.dim, size, dtype=dtype)
        return LayerCache(keys, torch.zeros(blocks, heads.kv_heads, size, heads.dim, dtype=dtype))

    def prepare(self, batch: Batch, heads: Heads) -> Step:
        """The step; see Kernels.prepare."""
        tables = np.ascontiguousarray(batch.tables)
        tile_rows, tile_firsts = np.empty((2, len(batch.tokens)), np.int32)
        kept = (batch.positions, batch.places, batch.starts, tables, tile_rows, tile_firsts)
        positions, places, starts, table, rows, firsts = (each.ctypes.data for each in kept)
        tiles = self.library.tile(starts, len(batch.slots), rows, firsts)
        struct = _Step(
            tokens=len(batch.tokens),
            heads=heads.heads,
            kv_heads=heads.kv_heads,
            dim=heads.dim,
            tiles=tiles,
            table_width=tables.shape[1],
            positions=positions,
            places=places,
            starts=starts,
            tables=table,
            tile_rows=rows,
            tile_firsts=firsts,
            scale=heads.scale,
            softcap=heads.softcap,
        )
        return Step(struct, kept)

    def add_norm(self, residual: Tensor, delta: Tensor | None, norm: Norm) -> Tensor:
        """See Kernels.add_norm."""
        out = torch.empty_like(residual)
        self._of("add_norm", residual)(
            out.data_ptr(),
            residual.data_ptr(),
            None if delta is None else delta.data_ptr(),
            norm.weight.data_ptr(),
            *residual.shape,
            norm.eps,
            norm.plain,
        )
        return out

    def gated(self, x: Tensor, activation: str) -> Tensor:
        """See Kernels.gated."""
        tokens, size = len(x), x.shape[1] // 2
        out = x.new_empty(tokens, size)
        gelu = activation != "silu"
        self._of("gated", x)(out.data_ptr(), x.data_ptr(), tokens, size, gelu)
        return out

    def attend(self, step: Step, qkv: Tensor, *, attention: Attention, cache: LayerCache) -> Tensor:
        """See Kernels.attend."""
        heads = attention.heads
        out = qkv.new_empty(len(qkv), heads.heads * heads.dim)
        query, key = attention.query_norm, attention.key_norm
        if query is not None:
            step.struct.eps, step.struct.plain = query.eps, query.plain
        self._of("attend", qkv)(
            byref(step.struct),
            qkv.data_ptr(),
            out.data_ptr(),
            cache.keys.data_ptr(),
            cache.values.data_ptr(),
            None if query is None else query.weight.data_ptr(),
            None if key is None else key.weight.data_ptr(),
            attention.cos.data_ptr(),
            attention.sin.data_ptr(),
            attention.window,
        )
        return out

    def quantize(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """See int8.Rows."""
        codes = torch.empty_like(x, dtype=torch.uint8)
        scales = torch.empty(len(x), dtype=torch.float32)
        self._of("quantize", x)(codes.data_ptr(), scales.data_ptr(), x.data_ptr(), *x.shape)
        return codes, scales

    def rescale(
        self, product: Tensor, scales: Tensor, bias: Tensor | None, *, dtype: torch.dtype
    ) -> Tensor:
        """See int8.Rows."""
        out = torch.empty_like(product, dtype=dtype)
        self._of("rescale", out)(
            out.data_ptr(),
            product.data_ptr(),
            scales.data_ptr(),
            None if bias is None else bias.data_ptr(),
            *product.shape,
        )
        return out

    def four_bit(self, matrix: Codes) -> FourBitProduct | None:
        """See Kernels.four_bit."""
        if self.means is Means.NONE or not fourbit.takes(matrix):
            return None
        return FourBitProduct(self.library, matrix, means=self.means, pages=self.pages)

    def _of(self, name: str, x: Tensor) -> Any:
        return getattr(self.library, f"{PREFIXES[x.dtype]}_{name}")


def _compiled() -> ctypes.CDLL:
    compiler = next(filter(None, map(shutil.which, COMPILERS)), None)
    if compiler is None:
        raise NoCompiler("There is no C compiler on the PATH.")
    try:
        library = _library(compiler)
    except (OSError, subprocess.TimeoutExpired) as error:
        # The temporary folder is read-only, say, or nothing may be executed from it.
        raise NoCompiler(f"The kernels cannot be compiled or opened: {error}") from error
    _declare(library)
    return library


def _library(compiler: str) -> ctypes.CDLL:
    with tempfile.TemporaryDirectory(prefix="gptqueue-") as folder:
        target = Path(folder) / "kernels.so"
        command = [compiler, *FLAGS, *SOURCES, "-o", str(target), "-lm"]
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=PATIENCE_SECONDS
        )
        if done.returncode:
            raise NoCompiler(f"{compiler} cannot compile the kernels: {done.stderr[:500]}")
        return ctypes.CDLL(str(target))


def _declare(library: ctypes.CDLL) -> None:
    """Tell ctypes the types, so that a wrong call fails instead of writing anywhere."""
    pointer = c_void_p
    library.tile.argtypes = [pointer, c_long, pointer, pointer]
    library.tile.restype = c_long
    kinds = {
        "add_norm": [*[pointer] * 4, c_long, c_long, c_float, ctypes.c_int],
        "gated": [pointer, pointer, c_long, c_long, ctypes.c_int],
        "quantize": [pointer, pointer, pointer, c_long, c_long],
        "rescale": [*[pointer] * 4, c_long, c_long],
        "attend": [POINTER(_Step), *[pointer] * 8, c_long],
    }
    for prefix in PREFIXES.values():
        for name, types in kinds.items():
            function = getattr(library, f"{prefix}_{name}")
            function.argtypes, function.restype = types, None
    fourbit.declare(library)
