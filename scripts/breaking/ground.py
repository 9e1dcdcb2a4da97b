"""The folder of a run: servers' data and the logs of all parts; the logs outlive a bad verdict."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class Ground:
    """A folder that is removed, unless somebody wants to read the logs in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def keep(self) -> Path:
        """Copy the logs to a place that stays."""
        kept = Path(tempfile.mkdtemp(prefix="gptqueue-chaos-logs-"))
        for log in self.folder.glob("*.log"):
            shutil.copy(log, kept)
        return kept


@contextmanager
def folder() -> Iterator[Ground]:
    """A folder for the length of the block."""
    with tempfile.TemporaryDirectory(prefix="gptqueue-chaos-", ignore_cleanup_errors=True) as name:
        # As root, PostgreSQL runs as another user, who has to get through.
        Path(name).chmod(0o711)
        yield Ground(Path(name))
