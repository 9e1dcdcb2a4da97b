"""A job's events over a WebSocket (RFC 6455), which simple-websocket speaks."""

import json
import socket
import threading
from collections import deque
from collections.abc import Generator
from contextlib import suppress
from typing import Any

from flask import Blueprint, Response, request
from pydantic import BaseModel, ConfigDict, Field
from simple_websocket import ConnectionClosed, Server

from app import errors
from app.accounts.principal import Principal
from app.api.events import END, describe, position
from app.api.following import Event, Following, Tick
from app.api.jobs import parse_id
from app.api.operations import operation
from app.api.services import services
from app.api.sse import KEEP_ALIVE_SECONDS

blueprint = Blueprint("websockets", __name__)


_MOST_HEARD_BYTES = 4096
_KEY_LENGTH = 24  # 16 bytes in base64
_GOODBYE_SECONDS = 2.0  # that the other side has to say that it closes, too


class SocketQuery(BaseModel):
    """From where on to read."""

    model_config = ConfigDict(extra="forbid")

    after: str = Field("", max_length=32, description="The id of the last event that you have.")


@operation(
    blueprint,
    "GET",
    "/jobs/<job_id>/ws",
    answer=None,
    status=101,
    query=SocketQuery,
    errors=(errors.JobNotFound, errors.InvalidRequest, errors.UpgradeRequired),
)
def job_socket(principal: Principal, job_id: str, query: SocketQuery) -> Response:
    """The events of a job over a WebSocket: messages {"event", "id", "data"}, as in
    /jobs/{job_id}/events; closed after the end.
    """
    document = services().reader.read(principal.account_id, parse_id(job_id))
    if not _is_handshake():
        raise errors.UpgradeRequired
    if query.after == END:
        return Conversation(_nothing())
    place = position(query.after)
    following = Following(services(), principal.account_id, document, place)
    return Conversation(following.events())


class Conversation(Response):
    """An answer that takes the connection over."""

    def __init__(self, events: Generator[Event]) -> None:
        super().__init__(status=101)
        self._events = events

    def __call__(self, environ: Any, start_response: Any) -> Any:
        """Tell every event; then let the server drop the connection."""
        websocket = Server(
            environ, ping_interval=KEEP_ALIVE_SECONDS, max_message_size=_MOST_HEARD_BYTES
        )
        # Nobody listens to what the other side says; without this all of it would be kept.
        websocket.input_buffer = deque(maxlen=1)
        connection = websocket.sock
        websocket.sock = _Whole(connection)
        with suppress(ConnectionClosed, OSError):  # whoever listened is gone
            self._tell(websocket)
        self._events.close()
        websocket.thread.join(_GOODBYE_SECONDS)
        with suppress(OSError):
            # The server has it open still, to wait for a next request that never comes.
            connection.shutdown(socket.SHUT_RDWR)
        if websocket.mode == "gunicorn":
            raise StopIteration  # its word for "this connection is mine no more"
        raise ConnectionError  # the same to Werkzeug's server

    def _tell(self, websocket: Server) -> None:
        for event in self._events:
            if not websocket.connected:
                return
            if not isinstance(event, Tick):
                name, data, event_id = describe(event)
                message = f'{{"event": {json.dumps(name)}, "id": {json.dumps(event_id)}, '
                websocket.send(message + f'"data": {data}}}')
        websocket.close()


def _is_handshake() -> bool:
    """Whether the request asks for a WebSocket as RFC 6455 wants it; another would fail later."""
    asked = request.headers
    return (
        asked.get("Upgrade", "").lower() == "websocket"
        and "upgrade" in asked.get("Connection", "").lower()
        and asked.get("Sec-WebSocket-Version") == "13"
        and len(asked.get("Sec-WebSocket-Key", "")) == _KEY_LENGTH
    )


def _nothing() -> Generator[Event]:
    """What is left after the end."""
    yield from ()


class _Whole:
    """A socket that sends all or raises: simple-websocket 1.1 takes ``send`` at its word, which may
    leave the end of a long message out when the other side reads slowly.
    """

    def __init__(self, socket: Any) -> None:
        self._socket = socket
        self._sending = threading.Lock()  # its own thread answers pings meanwhile

    def send(self, data: bytes) -> None:
        """All of it."""
        with self._sending:
            self._socket.sendall(data)

    def __getattr__(self, name: str) -> Any:
        """The rest is the socket's."""
        return getattr(self._socket, name)
