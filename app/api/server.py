"""gunicorn's configuration: ``gunicorn --config python:app.api.server "app.api:create_app()"``.

gevent, because requests that wait for a job must not each take a thread.
"""

from typing import Any

worker_class = "gevent"
workers = 2
worker_connections = 1000
keepalive = 30
graceful_timeout = 30
# A request with "Prefer: wait=60" is not a hanging one.
timeout = 90
accesslog = None  # the API logs its own requests, with their ids


def post_fork(server: Any, worker: Any) -> None:
    """Let psycopg2, which waits in C, yield to gevent's loop while it waits."""
    from app.api.cooperative import make_psycopg2_cooperative

    make_psycopg2_cooperative()
