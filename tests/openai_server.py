"""A server that speaks OpenAI's API in the test's own process, well or with faults on purpose."""

import json
import socket
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

PIECES = [
    "One",
    " two",
    " three",
    " four",
    " five",
    " é中",
    " seven",
    " \U0001f600",
    " nine",
    " ten",
]
PROMPT_TOKENS = 7


@dataclass
class Behaviour:
    """What the server does; ``faults`` are used up, one by one, by the requests that come.

    A fault is a status with its JSON, or one of FAULTS (what comes after three pieces, then the
    connection ends), "drop" (it ends before the head of the answer) or "silent" (no head of the
    answer until ``go``). With ``hold``, answers stop after so many pieces until ``go`` is set, or
    break off there when the server is to ``die``.
    """

    pieces: list[str] = field(default_factory=lambda: list(PIECES))
    faults: deque[Any] = field(default_factory=deque)
    models: list[dict[str, Any]] = field(default_factory=lambda: [{"id": "the-model"}])
    usage: str = "last"  # "last", "each" or "none"
    key: str = ""
    hold: int | None = None
    hang_up_after_answer: bool = False
    choice: dict[str, Any] = field(default_factory=dict)
    go: threading.Event = field(default_factory=threading.Event)
    die: threading.Event = field(default_factory=threading.Event)


class OpenAIServer(ThreadingHTTPServer):
    """Listens on a local port; remembers what it was asked."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, behaviour: Behaviour, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}/v1"
        self.behaviour = behaviour
        self.bodies: list[dict[str, Any]] = []
        self.paths: list[str] = []
        self.clients: set[int] = set()
        self.arrived = threading.Semaphore(0)
        self.holding = threading.Semaphore(0)
        self.hung_up = threading.Semaphore(0)
        self.running = self.most_running = 0
        self.lock = threading.Lock()

    def handle_error(self, *_: object) -> None:
        """Nothing: that clients hang up is part of the tests."""


@contextmanager
def serving(port: int = 0, **behaviour: Any) -> Iterator[OpenAIServer]:
    """A server, for as long as the block runs."""
    with OpenAIServer(Behaviour(**behaviour), port) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            server.behaviour.go.set()
            server.shutdown()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: OpenAIServer

    def do_GET(self) -> None:
        wanted = self.server.behaviour.key
        if wanted and self.headers["Authorization"] != f"Bearer {wanted}":
            self._json(401, {"error": {"message": "wrong key"}})
        else:
            self._json(200, {"object": "list", "data": self.server.behaviour.models})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        server, does = self.server, self.server.behaviour
        with server.lock:
            server.paths.append(self.path)
            server.bodies.append(body)
            server.clients.add(self.client_address[1])
            server.running += 1
            server.most_running = max(server.most_running, server.running)
            fault = does.faults.popleft() if does.faults else ""
        server.arrived.release()
        try:
            self._answer(body, fault)
        finally:
            with server.lock:
                server.running -= 1
            self.close_connection |= does.hang_up_after_answer

    def _answer(self, body: dict[str, Any], fault: Any) -> None:
        if isinstance(fault, tuple):
            self._json(*fault)
            return
        if fault == "drop" or (fault == "silent" and not self._may_go_on()):
            self._hang_up()
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        if self._pieces(body, fault):
            self._chunk("data: [DONE]\n\n")
            self._chunk("")
        else:
            self._hang_up()

    def _pieces(self, body: dict[str, Any], fault: Any) -> bool:
        """Whether the answer came to its end."""
        does = self.server.behaviour
        for number, piece in enumerate(does.pieces[: body["max_tokens"]]):
            if number == 3 and fault in FAULTS:
                self._chunk(FAULTS[fault])
                return False
            if number == does.hold and not self._may_go_on():
                return False
            self._event(body, number + 1, text=piece)
        finish = "length" if body["max_tokens"] < len(does.pieces) else "stop"
        self._event(body, min(body["max_tokens"], len(does.pieces)), finish=finish)
        return True

    def _event(
        self, body: dict[str, Any], tokens: int, *, text: str = "", finish: str | None = None
    ) -> None:
        chat = self.path.endswith("/chat/completions")
        said = {"delta": {"content": text}} if chat else {"text": text}
        event: dict[str, Any] = {
            "choices": [{"index": 0, "finish_reason": finish, **said, **self._choice(text)}]
        }
        usage = self.server.behaviour.usage
        if usage == "each" or (usage == "last" and finish):
            event["usage"] = {"prompt_tokens": PROMPT_TOKENS, "completion_tokens": tokens}
        self._chunk(f": a comment\n\ndata: {json.dumps(event)}\n\n")

    def _choice(self, text: str) -> dict[str, Any]:
        return self.server.behaviour.choice if text else {}

    def _may_go_on(self) -> bool:
        """Wait for ``go``; False when the client hangs up first."""
        self.server.holding.release()
        self.connection.settimeout(0.01)
        while not self.server.behaviour.go.is_set():
            if self.server.behaviour.die.is_set():
                return False
            try:
                if not self.connection.recv(1, socket.MSG_PEEK):
                    self.server.hung_up.release()
                    return False
            except TimeoutError:
                continue
        self.connection.settimeout(None)
        return True

    def _chunk(self, text: str) -> None:
        data = text.encode()
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))

    def _hang_up(self) -> None:
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def _json(self, status: int, value: Any) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Nothing."""


FAULTS = {
    "cut": "",
    "garbage": "data: {oops\n\n",
    "strange": 'data: {"choices": 3}\n\n',
    "abort": 'data: {"choices": [{"delta": {}, "finish_reason": "abort"}]}\n\n',
    "error": 'data: {"error": {"code": 500, "message": "out of memory"}}\n\n',
}
