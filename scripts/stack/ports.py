"""TCP ports on this machine: which are free, and remembering the one that was chosen."""

import socket
from pathlib import Path

LOCALHOST = "127.0.0.1"


def is_free(port: int) -> bool:
    """Whether a server could listen on this port now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOCALHOST, port))
        except OSError:
            return False
        return True


def find_free() -> int:
    """A port that nothing listens on at this moment."""
    with socket.socket() as probe:
        probe.bind((LOCALHOST, 0))
        port: int = probe.getsockname()[1]
        return port


def remembered(file: Path) -> int:
    """The port noted in this file; a new one, noted there, when that one is taken or missing.

    A server's address then stays the same from one start to the next.
    """
    port = int(file.read_text()) if file.exists() else 0
    if not port or not is_free(port):
        port = find_free()
        file.write_text(f"{port}\n")
    return port
