"""psycopg2 under gevent: wait for the socket in gevent's loop instead of in libpq.

The protocol is psycopg2's own (https://www.psycopg.org/docs/advanced.html#support-for-coroutine-libraries);
written here because the package for it, psycogreen, has had no release since 2020.
"""

from typing import Any

import psycopg2
from gevent.socket import wait_read, wait_write
from psycopg2 import extensions


def make_psycopg2_cooperative() -> None:
    """Install the wait callback for every connection of this process."""
    extensions.set_wait_callback(_wait)


def _wait(connection: Any) -> None:
    while True:
        state = connection.poll()
        if state == extensions.POLL_OK:
            return
        if state == extensions.POLL_READ:
            wait_read(connection.fileno())
        elif state == extensions.POLL_WRITE:
            wait_write(connection.fileno())
        else:
            raise psycopg2.OperationalError(f"unexpected answer {state} from poll()")
