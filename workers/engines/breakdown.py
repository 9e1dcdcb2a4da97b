"""What an operator reads when an engine breaks down."""

import re

# How the errors of CUDA, its libraries and its driver begin, whatever their class.
_OF_A_GPU = re.compile(r"(CUDA(?! out of memory)|cuDNN|CUBLAS|NVML|Triton Error \[CUDA\])")


class MemoryGone(Exception):
    """Not even the smallest step finds memory. A process that starts anew takes what is free."""

    def __init__(self) -> None:
        super().__init__("The engine ran out of memory, even for a single token.")


def gpu_failure(error: BaseException) -> str | None:
    """A sentence if a GPU failed, None if it was something else. After such an error nothing more
    works in its process.
    """
    first = (str(error).strip().splitlines() or [""])[0]
    return f"The GPU failed: {first.rstrip('.')}." if _OF_A_GPU.match(first) else None
