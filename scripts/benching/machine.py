"""Where and when the figures were taken."""

import os
import platform
from datetime import datetime
from pathlib import Path


def describe() -> str:
    """One line about this machine and moment."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    load = os.getloadavg()[0]
    return (
        f"{cores} cores of {processor()}, Python {platform.python_version()}, "
        f"{datetime.now():%Y-%m-%d %H:%M}, load average at the start {load:.1f}"
    )


def processor() -> str:
    """The processor's name, as Linux knows it."""
    cpuinfo = Path("/proc/cpuinfo")
    for line in cpuinfo.read_text().splitlines() if cpuinfo.exists() else ():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.processor() or platform.machine()
