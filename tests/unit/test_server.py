"""What gunicorn's configuration does to psycopg2."""

import socket

import psycopg2
import pytest
from psycopg2 import extensions

from app import server


class Silent:
    """A connection to a PostgreSQL that says nothing."""

    def __init__(self, stream: socket.socket) -> None:
        self.fileno = stream.fileno

    def poll(self) -> int:
        """There is something to read, sooner or later."""
        return extensions.POLL_READ


def test_a_request_does_not_wait_for_ever_for_a_database_that_says_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(server, "SILENCE_SECONDS", 0.1)
    ours, theirs = socket.socketpair()
    with ours, theirs, pytest.raises(psycopg2.OperationalError, match="does not answer"):
        server._wait(Silent(ours))
