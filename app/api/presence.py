"""Whether the client of a request is still there; WSGI itself does not say."""

import socket
from collections.abc import Mapping
from typing import Any

CONNECTION = "gunicorn.socket"
# net/tcp_states.h: closed, and closed by the other side.
_CLOSED = {7, 8}


def is_gone(environ: Mapping[str, Any]) -> bool:
    """Whether it has closed its connection, as Linux knows it (tcp(7), TCP_INFO).

    Nothing is read, so a next request on the connection is not touched. False where that cannot
    be seen: on another server than gunicorn, on another system, on a UNIX socket.
    """
    connection = environ.get(CONNECTION)
    if connection is None or not hasattr(socket, "TCP_INFO"):
        return False
    try:
        (state,) = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)
    except OSError:
        return False
    return state in _CLOSED
