"""How arrays of the host reach the device that a model is on."""

from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor


def sent(values: NDArray[Any], device: torch.device) -> Tensor:
    """A copy of ``values`` on ``device``. The host does not wait for what a GPU has still to do.

    That takes pinned memory: PyTorch waits for the whole stream after any other copy.
    """
    copied = torch.from_numpy(values.copy())
    if device.type != "cuda":
        return copied.to(device)
    return copied.pin_memory().to(device, non_blocking=True)
