"""Servers for tests: fresh, on free ports, gone afterwards."""

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from scripts.stack import processes
from scripts.stack.postgres import Cluster
from scripts.stack.postgres import create as create_cluster
from scripts.stack.valkey import Broker
from scripts.stack.valkey import create as create_broker

START_SECONDS = 60
STOP_SECONDS = 20


@contextmanager
def postgres() -> Iterator[str]:
    """The URL of a new PostgreSQL database whose owner may create others."""
    with _folder() as folder:
        server = create_cluster(folder / "postgres", durable=False)
        with _running(server, folder):
            yield server.url


@contextmanager
def valkey() -> Iterator[str]:
    """The URL of a new, empty Valkey server."""
    with _folder() as folder:
        server = create_broker(folder / "valkey")
        with _running(server, folder):
            yield server.url


@contextmanager
def _folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="gptqueue-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        # As root the server runs as another user, who has to get through.
        folder.chmod(0o711)
        yield folder


@contextmanager
def _running(server: Cluster | Broker, folder: Path) -> Iterator[None]:
    command, log = server.command(), folder / "log"
    with log.open("wb") as output:
        process = processes.start(command, output, cwd=folder)
    try:
        deadline = time.monotonic() + START_SECONDS
        while not server.ready():
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the server did not start:\n{log.read_text()}")
            time.sleep(0.02)
        yield
    finally:
        processes.stop(process, command, STOP_SECONDS)
