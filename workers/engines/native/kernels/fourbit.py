"""Products with 4 bit GPTQ matrices, by ``fourbit.c``."""

import ctypes
from ctypes import Structure, byref, c_int, c_int64, c_long, c_void_p
from enum import IntEnum

import torch
from torch import Tensor

from workers.engines.native.kernels import Codes
from workers.engines.native.kernels.pages import Pages

TILE = 16  # columns, as in fourbit.c
STEP = 32  # weights of a column that one instruction takes
MIDDLE = 8  # the zero of a symmetric matrix


class Means(IntEnum):
    """What the products are made with, as in fourbit.c."""

    NONE = 0
    AVX512 = 1
    AMX = 2


class _Matrix(Structure):
    """As in fourbit.c."""

    _fields_ = [
        *((name, c_void_p) for name in ("codes", "scales", "lifts", "bias")),
        *((name, c_int64) for name in ("size", "out", "group")),
    ]


class FourBitProduct:
    """``x @ weight.T + bias``, each group of weights summed in float32."""

    def __init__(self, library: ctypes.CDLL, matrix: Codes, *, means: Means, pages: Pages) -> None:
        """``matrix`` is copied to ``pages``; see ``takes``."""
        self._four_bit, self._means = library.four_bit, means
        self._out, size = matrix.codes.shape
        ordered = [_words(matrix.codes), _scales(matrix), _lifts(matrix), _bias(matrix)]
        self._kept = [None if each is None else pages.keep(each) for each in ordered]
        places = (None if each is None else each.data_ptr() for each in self._kept)
        self._matrix = _Matrix(*places, size, self._out, matrix.group)

    def __call__(self, x: Tensor) -> Tensor:
        """(rows, in) to (rows, out), both bfloat16."""
        out = x.new_empty(len(x), self._out)
        self._four_bit(byref(self._matrix), x.data_ptr(), out.data_ptr(), len(x), self._means)
        return out


def takes(matrix: Codes) -> bool:
    """Whether groups are whole steps, and the columns whole groups."""
    return matrix.group % STEP == 0 and matrix.codes.shape[1] % matrix.group == 0


def declare(library: ctypes.CDLL) -> None:
    """Tell ctypes the types."""
    pointer = c_void_p
    library.four_bit_means.argtypes, library.four_bit_means.restype = [], c_int
    library.four_bit.argtypes = [ctypes.POINTER(_Matrix), pointer, pointer, c_long, c_int]
    library.four_bit.restype = None


def _words(codes: Tensor) -> Tensor:
    """Codes (out, in) in the order of fourbit.c: int16 (tiles, in / 8, TILE, 2)."""
    tiles = _tiled(codes.T)
    # (tiles, in / 8, place, neighbour, TILE)
    eights = tiles.view(len(tiles), -1, 4, 2, TILE)
    words = (eights.int() << torch.arange(0, 16, 4).view(4, 1, 1)).sum(2)
    return words.transpose(2, 3).contiguous().to(torch.int16)


def _scales(matrix: Codes) -> Tensor:
    return _tiled(matrix.scales.to(torch.bfloat16))


def _lifts(matrix: Codes) -> Tensor | None:
    if bool((matrix.zeros == MIDDLE).all()):
        return None
    return _tiled(-matrix.zeros.to(torch.int16)).repeat_interleave(2, dim=-1)


def _bias(matrix: Codes) -> Tensor | None:
    return None if matrix.bias is None else _tiled(matrix.bias.float().unsqueeze(0))


def _tiled(rows: Tensor) -> Tensor:
    """(any, out) as (tiles, any, TILE), filled up with zeros."""
    filled = torch.nn.functional.pad(rows, (0, -rows.shape[1] % TILE))
    return filled.reshape(len(rows), -1, TILE).transpose(0, 1).contiguous()
