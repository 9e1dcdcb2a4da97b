"""How much memory there is, whether an error means that there is none left, and what operators read
then.
"""

from pathlib import Path

import psutil
import torch

CGROUPS = Path("/sys/fs/cgroup")
# In control groups version 2 and 1: what a container may use, what it uses, in bytes, and where it
# says how much of that is files that were read and can be forgotten.
LIMITS = (
    ("memory.max", "memory.current", "memory.stat", "inactive_file"),
    (
        "memory/memory.limit_in_bytes",
        "memory/memory.usage_in_bytes",
        "memory/memory.stat",
        "total_inactive_file",
    ),
)


def free_bytes(groups: Path = CGROUPS) -> int:
    """What the host has free, or a container whose limit is lower."""
    free: int = psutil.virtual_memory().available
    for limit, usage, statistics, cache in LIMITS:
        try:
            left = int((groups / limit).read_text()) - int((groups / usage).read_text())
            said = dict(line.split() for line in (groups / statistics).read_text().splitlines())
            left += int(said.get(cache, 0))
        except (OSError, ValueError):  # not that version; or "max", which is no limit
            continue
        free = min(free, max(left, 0))
    return free


def is_out_of_memory(error: BaseException) -> bool:
    """torch's allocator for the CPU has no error class of its own, only words."""
    known = isinstance(error, torch.OutOfMemoryError | MemoryError)
    return known or (isinstance(error, RuntimeError) and "can't allocate memory" in str(error))


def too_large(what: str, error: BaseException) -> str:
    """The sentence for a model that finds no memory; ``what`` of it does not fit."""
    if not isinstance(error, torch.OutOfMemoryError):  # only GPUs have that class
        return f"{what} does not fit into memory."
    return (
        f"{what} does not fit into what is free of the memory of one GPU (nvidia-smi says whether "
        "others use it, too), and a worker uses one. A server such as "
        'vLLM spreads a model over several (--tensor-parallel-size); the engine "openai" sends it '
        "the jobs."
    )
