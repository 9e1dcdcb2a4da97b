"""Whether an error means that there is no memory left."""

import torch


def is_out_of_memory(error: BaseException) -> bool:
    """torch's allocator for the CPU has no error class of its own, only words."""
    known = isinstance(error, torch.OutOfMemoryError | MemoryError)
    return known or (isinstance(error, RuntimeError) and "can't allocate memory" in str(error))
