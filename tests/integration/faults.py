"""Factories for the native engine's process that break what the real one builds on."""

import os
from typing import Any
from unittest import mock

import torch

from app.errors import ModelLoadFailed
from workers.engines.native import building, sizing
from workers.engines.native.loop import Loop
from workers.engines.transformers import loading

PETABYTES = 10**12  # blocks of keys and values


def no_room_for_weights(**arguments: Any) -> Loop:
    """The model library finds no memory on the GPU."""
    error = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
    with mock.patch.object(loading.AutoModelForCausalLM, "from_pretrained", side_effect=error):
        return building.build(**arguments)


def say_where(*, device: str, **arguments: Any) -> Loop:
    """Tell which device was asked for, and which GPU this process sees."""
    raise ModelLoadFailed(f"{device} on {os.environ['CUDA_VISIBLE_DEVICES']}")


def no_room_for_keys(**arguments: Any) -> Loop:
    """The memory that was free is gone when it is asked for."""
    with mock.patch.object(sizing, "blocks", return_value=PETABYTES):
        return building.build(**arguments)


def no_memory_left(**arguments: Any) -> Loop:
    """Nothing is left beside the weights."""
    with mock.patch.object(sizing, "free_bytes", return_value=0):
        return building.build(**arguments)


def short_of_room(*, blocks: int, **arguments: Any) -> Loop:
    """A loop with so few ``blocks`` of keys and values that requests must give way."""
    with mock.patch.object(sizing, "blocks", return_value=blocks):
        return building.build(**arguments)
