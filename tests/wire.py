"""A wire to a server that can be cut, as a whole or as far as it is in use: nothing arrives any
more, and nobody is told (no FIN).
"""

import socket
import threading
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass

CHUNK = 1 << 16


@dataclass(eq=False)
class Connection:
    """Two sockets, and whether what comes in at one goes out at the other."""

    near: socket.socket
    far: socket.socket | None
    dead: bool = False

    def close(self) -> None:
        """Both ends."""
        for end in (self.near, self.far):
            if end is not None:
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
                end.close()


class Wire(AbstractContextManager["Wire"]):
    """Listens on a free local port, and hands on to another one."""

    def __init__(self, port: int) -> None:
        self._target = ("127.0.0.1", port)
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = self._server.getsockname()[1]
        self._connections: list[Connection] = []
        self._is_cut = False
        self._lock = threading.Lock()
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """From now on nothing arrives, on new connections either."""
        with self._lock:
            self._is_cut = True
            self._swallow()

    def mend(self) -> None:
        """New connections work; those that there are never do again."""
        with self._lock:
            self._is_cut = False

    def leave_half_open(self) -> None:
        """What is connected stays so, and never works again; new connections work."""
        with self._lock:
            self._swallow()

    def _swallow(self) -> None:
        for connection in self._connections:
            connection.dead = True

    def __exit__(self, *_: object) -> None:
        """Close everything."""
        with suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        with self._lock:
            for connection in self._connections:
                connection.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._server.accept()
                self._connect(near)

    def _connect(self, near: socket.socket) -> None:
        with self._lock:
            if self._is_cut:
                self._connections.append(Connection(near, None, dead=True))
                return
            try:
                far = socket.create_connection(self._target)
            except OSError:
                near.close()
                return
            connection = Connection(near, far)
            self._connections.append(connection)
        for source, target in ((near, far), (far, near)):
            pump = threading.Thread(
                target=self._pump, args=(connection, source, target), daemon=True
            )
            pump.start()

    def _pump(self, connection: Connection, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(CHUNK):
                if not connection.dead:
                    target.sendall(data)
        if not connection.dead:
            connection.close()
