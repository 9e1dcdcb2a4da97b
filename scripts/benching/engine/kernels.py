"""The kernel of quantized layers on CUDA, which gptqmodel compiles at its first use."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from scripts.benching.notes import Notes

COMPILE = (
    "import torch; from gptqmodel.utils.marlin import prewarm_marlin_extension as warm;"
    "warm(torch.float16)"
)
# Of the processor's cores; the rest measure meanwhile.
SHARE = 2
SECONDS = 240


@contextmanager
def compiling() -> Iterator[subprocess.Popen[bytes]]:
    """Compile it in a process of its own, which does not outlive the block."""
    jobs = max(1, (os.cpu_count() or 1) // SHARE)
    environment = {**os.environ, "MAX_JOBS": str(jobs), "GPTQMODEL_OFFLINE": "1"}
    process = subprocess.Popen(
        [sys.executable, "-c", COMPILE], env=environment, stdout=subprocess.DEVNULL
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def wait(process: subprocess.Popen[bytes], notes: Notes) -> None:
    """Until that is done; says so if it came to nothing, and then another kernel is measured."""
    try:
        code = process.wait(SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        code = process.wait()
    if code:
        notes.say("Marlin could not be compiled, so what is quantized runs on another kernel.")
