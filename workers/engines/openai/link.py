"""One connection to the server, kept from request to request.

Written on ``http.client``, whose socket is at hand: shutting it down from another thread is what
ends a request at once, also while the server has not answered at all.
"""

import json
import select
import socket
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from typing import Any
from urllib.parse import urlsplit

from app.errors import ModelLoadFailed

CONNECT_SECONDS = 5.0
LONGEST_LINE = 1 << 22  # bytes of one event
LONGEST_ERROR = 1 << 16  # bytes of an answer that is no success
DONE = "[DONE]"
# A peer that is gone without a word is noticed after 5 + 3 * 2 s; a silent one may be busy.
_KEEPALIVE = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 5),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 2),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
)


class ServerAway(Exception):
    """The server cannot be reached, or says that it cannot work now."""


class ServerBroke(Exception):
    """The server took the request and did not end its answer."""


@dataclass(frozen=True, slots=True)
class Server:
    """Where the server is; ``key`` is sent as a bearer token, empty: none."""

    url: str
    key: str = ""

    def connection(self) -> HTTPConnection:
        """One that is not connected yet; raises ModelLoadFailed."""
        parts = urlsplit(self.url)
        kinds: dict[str, type[HTTPConnection]] = {
            "http": HTTPConnection,
            "https": HTTPSConnection,
        }
        try:
            host, port, kind = parts.hostname or "", parts.port, kinds[parts.scheme]
        except (KeyError, ValueError):
            host = ""
        if not host:
            raise ModelLoadFailed(f"The source {self.url!r} is no http or https URL.")
        return kind(host, port, timeout=CONNECT_SECONDS)

    def path(self, name: str) -> str:
        """The path of an endpoint, below that of the URL."""
        return f"{urlsplit(self.url).path.rstrip('/')}/{name}"

    def headers(self) -> dict[str, str]:
        """What every request carries."""
        bearer = {"Authorization": f"Bearer {self.key}"} if self.key else {}
        return {"Content-Type": "application/json", "User-Agent": "GPTQueue/1", **bearer}


class Link:
    """Sends one request at a time, from one thread; any thread may cut it."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._connection = server.connection()
        self._socket: socket.socket | None = None

    def connect(self) -> None:
        """Have a connection that lives; raises ServerAway."""
        kept = self._connection.sock
        if kept is not None and not _readable(kept):
            return
        self.close()  # the server closed it meanwhile, if there was one
        try:
            self._connection.connect()
            for option in _KEEPALIVE:
                self._connection.sock.setsockopt(*option)
        except OSError as error:
            self._connection.close()
            raise ServerAway(f"{self._server.url} cannot be reached: {_words(error)}") from error
        self._socket = self._connection.sock

    def ask(
        self, method: str, name: str, *, body: Any = None, patience: float | None = None
    ) -> HTTPResponse:
        """Send a request, and wait for the head of the answer; raises ServerBroke.

        ``patience`` is in seconds per wait; None waits until the link is cut or breaks.
        """
        assert self._socket is not None
        self._socket.settimeout(patience)
        sent = None if body is None else json.dumps(body)
        try:
            path, headers = self._server.path(name), self._server.headers()
            self._connection.request(method, path, sent, headers)
            return self._connection.getresponse()
        except (OSError, HTTPException) as error:
            raise ServerBroke(f"{self._server.url} gave no answer: {_words(error)}") from error

    def cut(self) -> None:
        """Whoever waits for the server waits no longer."""
        if (open_one := self._socket) is not None:
            with suppress(OSError):
                open_one.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Hang up; the next ``connect`` connects anew."""
        self._connection.close()
        self._socket = None


def events(response: HTTPResponse) -> Iterator[dict[str, Any]]:
    """The server-sent events of an answer, up to ``[DONE]`` or its end; raises ServerBroke."""
    try:
        while line := response.readline(LONGEST_LINE):
            data = line.decode().removeprefix("data:").strip()
            if not line.startswith(b"data:") or not data:
                continue
            if data == DONE:
                response.read()  # else the connection could not be used again
                return
            yield _object(data)
    except (OSError, HTTPException) as error:
        raise ServerBroke(f"The answer broke off: {_words(error)}") from error
    except ValueError as error:
        raise ServerBroke("The server's answer cannot be understood.") from error


def body(response: HTTPResponse) -> dict[str, Any]:
    """The JSON of a whole answer, empty where it is none; raises ServerBroke."""
    try:
        return _object(response.read(LONGEST_ERROR).decode())
    except (OSError, HTTPException) as error:
        raise ServerBroke(f"The answer broke off: {_words(error)}") from error
    except ValueError:
        return {}


def _object(text: str) -> dict[str, Any]:
    value = json.loads(text)
    if not isinstance(value, dict):
        raise ValueError(text[:100])
    return value


def _readable(idle: socket.socket) -> bool:
    poll = select.poll()
    poll.register(idle, select.POLLIN)
    return bool(poll.poll(0))


def _words(error: Exception) -> str:
    return str(error) or type(error).__name__
