"""gunicorn's configuration: ``gunicorn --config python:app.server "app.api:create_app()"``.

gevent, because requests that wait for a job must not each take a thread. This module imports
nothing of the application: gevent must patch the standard library first.
"""

from typing import Any

worker_class = "gevent"
workers = 2
worker_connections = 1000
keepalive = 30
graceful_timeout = 30
timeout = 90  # a request with "Prefer: wait=60" is not a hanging one
accesslog = None  # the API logs its own requests, with their ids
control_socket_disable = True  # it would be made in the home folder of whoever starts us


def post_fork(server: Any, worker: Any) -> None:
    """Let psycopg2, which waits in C, yield to gevent's loop while it waits.

    The protocol is psycopg2's own
    (https://www.psycopg.org/docs/advanced.html#support-for-coroutine-libraries); written here
    because the package for it, psycogreen, has had no release since 2020.
    """
    from psycopg2 import extensions

    extensions.set_wait_callback(_wait)


def _wait(connection: Any) -> None:
    import psycopg2
    from gevent.socket import wait_read, wait_write
    from psycopg2 import extensions

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
