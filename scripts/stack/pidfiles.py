"""``run/<part>.pid``: which process is which part."""

from pathlib import Path

import psutil


def write(folder: Path, name: str, pid: int) -> Path:
    """Note the process of a part."""
    file = folder / f"{name}.pid"
    file.write_text(f"{pid}\n")
    return file


def process_of(file: Path) -> psutil.Process | None:
    """The process the file names, if it still runs.

    A process younger than the file is a stranger that got the number of one that ended.
    """
    try:
        process = psutil.Process(int(file.read_text()))
        written = file.stat().st_mtime
        # The kernel counts a start in hundredths of a second from a boot time known to the second.
        return process if is_alive(process) and process.create_time() <= written + 1 else None
    except (psutil.Error, OSError, ValueError):
        return None


def is_alive(process: psutil.Process) -> bool:
    """Whether it runs: not ended, nor ended and waiting for its parent to notice."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def living(folder: Path) -> dict[str, psutil.Process]:
    """Every part that still runs, by name."""
    found = {file.stem: process_of(file) for file in sorted(folder.glob("*.pid"))}
    return {name: process for name, process in found.items() if process}
