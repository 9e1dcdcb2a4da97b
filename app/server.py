"""gunicorn's configuration: ``gunicorn --config python:app.server "app.api:create_app()"``.

gevent, because requests that wait for a job must not each take a thread. This module imports
nothing of the application: gevent must patch the standard library first.
"""

import json
import logging
from datetime import UTC, datetime
from typing import Any


class JSONLines(logging.Formatter):
    """gunicorn's own lines, in the shape that ``app.logs`` gives to everything else."""

    def format(self, record: logging.LogRecord) -> str:
        """One JSON object."""
        line = {
            "event": record.getMessage(),
            "logger": record.name,
            "level": record.levelname.lower(),
            "timestamp": datetime.fromtimestamp(record.created, UTC).isoformat(),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line)


# How long PostgreSQL may say nothing, more than a statement may take (app/db.py). libpq's own limit
# for connecting does not apply where psycopg2 waits like this.
SILENCE_SECONDS = 17.0

# Names that are looked up in native threads at a time; gevent's own 10 could all be hanging ones.
NAMES_AT_ONCE = 200

worker_class = "gevent"
workers = 2
worker_connections = 4000  # streams and requests that wait cost a greenlet each
keepalive = 5  # a connection that idles delays the end of the process that long
graceful_timeout = 30
timeout = 90  # a request with "Prefer: wait=60" is not a hanging one
accesslog = None  # the API logs its own requests, with their ids
logconfig_dict = {
    "formatters": {"generic": {"()": JSONLines}},
    "loggers": {"gunicorn.error": {"level": "INFO", "handlers": ["console"], "propagate": False}},
}
control_socket_disable = True  # it would be made in the home folder of whoever starts us


def post_fork(server: Any, worker: Any) -> None:
    """Let psycopg2, which waits in C, yield to gevent's loop while it waits.

    The protocol is psycopg2's own
    (https://www.psycopg.org/docs/advanced.html#support-for-coroutine-libraries); written here
    because the package for it, psycogreen, has had no release since 2020.
    """
    import gc

    import gevent
    from psycopg2 import extensions

    # What is loaded by now stays; looking through it again and again costs a tenth of the time.
    gc.freeze()
    gevent.get_hub().threadpool.maxsize = NAMES_AT_ONCE
    gc.set_threshold(20_000, 20, 20)
    extensions.set_wait_callback(_wait)


def _wait(connection: Any) -> None:
    import psycopg2
    from gevent.socket import wait_read, wait_write
    from psycopg2 import extensions

    timed_out = psycopg2.OperationalError("PostgreSQL does not answer")
    while True:
        state = connection.poll()
        if state == extensions.POLL_OK:
            return
        if state == extensions.POLL_READ:
            wait_read(connection.fileno(), SILENCE_SECONDS, timed_out)
        elif state == extensions.POLL_WRITE:
            wait_write(connection.fileno(), SILENCE_SECONDS, timed_out)
        else:
            raise psycopg2.OperationalError(f"unexpected answer {state} from poll()")
