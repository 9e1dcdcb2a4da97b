"""One attempt against receivers that do what no receiver should; none can hold or divert it."""

import ipaddress
import re
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from uuid import UUID

import pytest

from app.config import Settings
from app.errors import WebhookURLRefused
from app.webhooks import addresses
from app.webhooks.addresses import Address
from app.webhooks.parcels import Answer, Parcel
from app.webhooks.sending import send
from app.webhooks.signing import Keys, new_private_key, new_secret
from tests.destinations import DISGUISED, MALFORMED, PRIVATE

Talk = Callable[[socket.socket], None]

_watched = threading.local()


def _note(event: str, arguments: tuple[object, ...]) -> None:
    if event == "socket.connect" and hasattr(_watched, "connects"):
        _watched.connects.append(arguments[1])


sys.addaudithook(_note)  # which cannot be removed

LOCAL = Settings(webhook_allowed_networks="127.0.0.0/8, ::1/128", webhook_timeout_seconds=2)
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


def _parcel(url: str) -> Parcel:
    return Parcel(
        id=UUID(int=1),
        attempt=1,
        account_id=UUID(int=2),
        host="",
        url=url,
        body=b"{}",
        keys=Keys((new_secret(),), new_private_key()),
    )


def _read_request(connection: socket.socket) -> bytes:
    """Read all of it: closing on what was not read would reset the connection, answer and all."""
    request = b""
    while not request.endswith(b"\r\n\r\n{}") and (more := connection.recv(65_536)):
        request += more
    return request


class Server(threading.Thread):
    """Accepts one connection after the other and talks to each."""

    def __init__(self, talk: Talk) -> None:
        super().__init__()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self.listener.getsockname()[1]
        self.accepted = 0
        self._talk = talk
        self.start()

    def run(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            self.accepted += 1
            with connection:
                try:
                    self._talk(connection)
                except OSError:
                    continue

    def stop(self) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        self.join()
        self.listener.close()


@pytest.fixture
def serve() -> Iterator[Callable[[Talk], Server]]:
    """A server of one's own making."""
    servers: list[Server] = []

    def start(talk: Talk) -> Server:
        servers.append(Server(talk))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


Serve = Callable[[Talk], Server]


def _says(*texts: bytes) -> Talk:
    def talk(connection: socket.socket) -> None:
        _read_request(connection)
        for text in texts:
            connection.sendall(text)

    return talk


def _drips(text: bytes) -> Talk:
    """Send this over and over, with little pauses, for longer than anybody should listen."""

    def talk(connection: socket.socket) -> None:
        _read_request(connection)
        for _ in range(200):
            connection.sendall(text)
            time.sleep(0.05)
        connection.sendall(b"\r\n" + OK)

    return talk


def _answers(*texts: str) -> addresses.Resolver:
    return lambda _host, _port: [ipaddress.ip_address(text) for text in texts]


def _ask(server: Server, settings: Settings = LOCAL) -> Answer:
    return send(_parcel(f"http://127.0.0.1:{server.port}/"), settings)


def _is_silent(connection: socket.socket) -> None:
    while connection.recv(65_536):
        pass


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "talk",
    [
        _is_silent,
        _drips(b"H"),
        _drips(b"HTTP/1.1 100 Continue\r\n\r\n"),
    ],
    ids=["silence", "a letter at a time", "endless promises"],
)
def test_a_receiver_that_never_comes_to_an_end_is_given_up(serve: Serve, talk: Talk) -> None:
    assert _ask(serve(talk)) == Answer(error="TimeoutError")


@pytest.mark.timeout(60)
def test_a_receiver_that_said_yes_is_not_heard_to_the_end_of_its_headers(serve: Serve) -> None:
    ended: list[bool] = []

    def talk(connection: socket.socket) -> None:
        _read_request(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\n")
        for number in range(90):
            connection.sendall(b"X-%d: x\r\n" % number)
            time.sleep(0.05)
        ended.append(True)

    assert _ask(serve(talk)) == Answer(status=200)
    assert not ended


@pytest.mark.timeout(60)
def test_a_body_that_never_ends_is_not_read(serve: Serve) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000000\r\n\r\n"
    assert _ask(serve(_says(head, b"a" * 1000))) == Answer(status=200)


def _body(answer: Answer) -> str | None:
    assert answer.trace
    return answer.trace.body


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        (b"no such order", "no such order"),
        (b"a" * 5000, "a" * 1000),
        ("\N{SNOWMAN}".encode() * 1000, "\N{SNOWMAN}" * 333),
        (b"a\x00b\xffc\xc3", "a\N{REPLACEMENT CHARACTER}b\N{REPLACEMENT CHARACTER}c"),
    ],
)
@pytest.mark.parametrize("length", [b"", b"Content-Length: 5000\r\n"])
def test_the_beginning_of_an_answers_body_is_kept_as_a_text(
    serve: Serve, sent: bytes, kept: str, length: bytes
) -> None:
    answer = _ask(serve(_says(b"HTTP/1.1 500 No\r\n" + length + b"\r\n" + sent)))
    assert (answer.status, _body(answer)) == (500, kept)


@pytest.mark.parametrize(
    "sent",
    [
        b"5\r\nhello\r\n0\r\n\r\n",
        b"5\r\nhello\r\n",
        b"!\r\n",
        b"-1\r\n",
        b"f" * 100 + b"\r\n",
        b"a" * 100_000,
    ],
    ids=lambda text: repr(text[:30]),
)
def test_a_body_in_chunks_good_or_bad_takes_nothing_from_the_status(
    serve: Serve, sent: bytes
) -> None:
    answer = _ask(serve(_says(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + sent)))
    assert answer.status == 200
    assert _body(answer) in {"", "hello"}


@pytest.mark.timeout(60)
def test_a_body_that_comes_slowly_holds_nobody_up(serve: Serve) -> None:
    def talk(connection: socket.socket) -> None:
        _read_request(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\nsome")
        while not connection.recv(1):
            return

    patient = LOCAL.model_copy(update={"webhook_timeout_seconds": 20})
    begun = time.monotonic()
    answer = _ask(serve(talk), patient)
    assert (answer.status, _body(answer)) == (200, "some")
    assert time.monotonic() - begun < 5
    assert answer.trace
    assert 900 < answer.trace.duration_ms < 5000


def test_the_request_is_kept_as_it_was_sent(serve: Serve) -> None:
    requests: list[bytes] = []

    def talk(connection: socket.socket) -> None:
        requests.append(_read_request(connection))
        connection.sendall(OK)

    answer = _ask(serve(talk))
    assert answer.trace
    lines = requests[0].decode().split("\r\n\r\n")[0].split("\r\n")[1:]
    assert answer.trace.headers == dict(line.split(": ", 1) for line in lines)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"\r\n",
        b"hello\r\n\r\n",
        b"HTTP/1.1\r\n\r\n",
        b"HTTP/1.1 abc OK\r\n\r\n",
        b"HTTP/1.1 99999 OK\r\n\r\n",
        b"SMTP 200\r\n\r\n",
        b"\x00\xff" * 100,
        b"HTTP/1.1 200 " + b"a" * 100_000,
        b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 1000 + b"\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"A" * 100_000,
    ],
    ids=lambda text: repr(text[:30]),
)
def test_an_answer_that_is_no_http_is_a_failed_attempt(serve: Serve, text: bytes) -> None:
    answer = _ask(serve(_says(text)))
    assert answer.status is None
    assert answer.error


def test_nobody_at_home_is_a_failed_attempt(closed_port: int) -> None:
    answer = send(_parcel(f"http://127.0.0.1:{closed_port}/"), LOCAL)
    assert answer == Answer(error="ConnectionRefusedError")


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed(serve: Serve, status: int) -> None:
    elsewhere = serve(_says(OK))
    location = f"http://127.0.0.1:{elsewhere.port}/"
    head = f"HTTP/1.1 {status} Moved\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n"
    answer = _ask(serve(_says(head.encode())))
    assert (answer.status, answer.accepted) == (status, False)
    assert elsewhere.accepted == 0


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
def test_every_success_is_one(serve: Serve, status: int) -> None:
    answer = _ask(serve(_says(f"HTTP/1.1 {status} Fine\r\nContent-Length: 0\r\n\r\n".encode())))
    assert (answer.status, answer.accepted) == (status, True)


def test_a_private_address_is_refused_at_delivery_too(serve: Serve) -> None:
    server = serve(_says(OK))
    nothing_listed = Settings(webhook_timeout_seconds=2)
    answer = _ask(server, nothing_listed)
    assert answer.error == "Webhooks are not sent to private, local or reserved addresses."
    assert server.accepted == 0


@pytest.fixture
def connects(serve: Serve) -> Iterator[list[object]]:
    """Where this thread connects to from now on."""
    _watched.connects = []
    server = serve(_says(OK))
    assert _ask(server) == Answer(status=200)
    assert _watched.connects == [("127.0.0.1", server.port)]  # so it would be seen
    _watched.connects.clear()
    yield _watched.connects
    del _watched.connects


def test_nothing_of_the_whole_corpus_is_connected_to_at_submit_or_at_delivery(
    serve: Serve, connects: list[object]
) -> None:
    server = serve(_says(OK))
    nothing_listed = Settings(webhook_timeout_seconds=2)
    urls = [(url, addresses.resolve) for url in [*DISGUISED, *MALFORMED]]
    for url in DISGUISED:
        host = url.partition("//")[2].rstrip("/").removesuffix(":80").removesuffix(":5432")
        urls.append((f"http://{host}:{server.port}/", addresses.resolve))
    for text in PRIVATE:
        urls.append((f"http://a.example:{server.port}/", _answers(text)))
        urls.append((f"http://a.example:{server.port}/", _answers("8.8.8.8", text)))
    urls += [(f"http://a.example:{port}/", _answers("8.8.8.8")) for port in (22, 25, 587)]

    for url, resolver in urls:
        with suppress(WebhookURLRefused):
            addresses.check(url, nothing_listed, resolver)
        answer = send(_parcel(url), nothing_listed, resolver)
        assert answer.status is None
        assert answer.error, url
    assert connects == []
    assert server.accepted == 0


def test_a_resolver_that_changes_its_answer_gains_nothing(serve: Serve) -> None:
    server = serve(_says(OK))
    asked: list[str] = []

    def changing(host: str, _port: int) -> list[Address]:
        asked.append(host)
        return [ipaddress.ip_address("127.0.0.1" if len(asked) == 1 else "169.254.169.254")]

    answer = send(_parcel(f"http://a.example:{server.port}/"), LOCAL, changing)
    assert (answer.status, asked) == (200, ["a.example"])

    asked.append("again")
    answer = send(_parcel(f"http://a.example:{server.port}/"), LOCAL, changing)
    assert (answer.status, server.accepted) == (None, 1)


def test_a_name_that_becomes_private_after_the_submit_is_refused_at_delivery(
    connects: list[object],
) -> None:
    url, nothing_listed = "https://a.example/", Settings()
    addresses.check(url, nothing_listed, _answers("8.8.8.8"))
    for private in ("127.0.0.1", "169.254.169.254", "::1"):
        answer = send(_parcel(url), nothing_listed, _answers(private))
        assert answer.error == "Webhooks are not sent to private, local or reserved addresses."
    assert connects == []


def test_a_name_that_does_not_resolve_is_a_failed_attempt() -> None:
    def unknown(_host: str, _port: int) -> list[Address]:
        raise socket.gaierror

    answer = send(_parcel("https://a.example/"), LOCAL, unknown)
    assert answer == Answer(error="The host name does not resolve.")


def _certificate(folder: Path, name: str) -> tuple[Path, Path]:
    certificate, key = folder / f"{name}.pem", folder / f"{name}.key"
    options = ["-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", f"/CN={name}"]
    names = ["-addext", f"subjectAltName=DNS:{name}", "-keyout", key, "-out", certificate]
    command = ["openssl", "req", "-x509", *options, *names]
    subprocess.run(command, check=True, capture_output=True)
    return certificate, key


def _secure(certificate: Path, key: Path, told: list[str | None]) -> Talk:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    context.sni_callback = lambda _stream, name, _context: told.append(name)

    def talk(connection: socket.socket) -> None:
        with context.wrap_socket(connection, server_side=True) as stream:
            request = _read_request(stream).decode()
            told.extend(re.findall(r"^Host: (.*)\r$", request, re.MULTILINE))
            stream.sendall(OK)

    return talk


@pytest.fixture
def told() -> list[str | None]:
    """What clients of the server below called it, in SNI and then in Host."""
    return []


@pytest.fixture
def secure(
    serve: Serve, told: list[str | None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Server:
    """A server with a certificate for a.example, which everybody here trusts."""
    certificate, key = _certificate(tmp_path, "a.example")
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    return serve(_secure(certificate, key, told))


_local = _answers("127.0.0.1")


def test_the_host_of_the_url_is_named_in_sni_and_host_though_an_address_is_connected_to(
    secure: Server, told: list[str | None], connects: list[object]
) -> None:
    patient = LOCAL.model_copy(update={"webhook_timeout_seconds": 10})
    answer = send(_parcel(f"https://a.example:{secure.port}/"), patient, _local)
    assert answer == Answer(status=200)
    assert connects == [("127.0.0.1", secure.port)]
    assert told == ["a.example", f"a.example:{secure.port}"]


def test_a_certificate_has_to_be_for_the_name_in_the_url(secure: Server) -> None:
    patient = LOCAL.model_copy(update={"webhook_timeout_seconds": 10})
    right = send(_parcel(f"https://a.example:{secure.port}/"), patient, _local)
    assert right == Answer(status=200)
    for wrong in ("b.example", "127.0.0.1"):
        answer = send(_parcel(f"https://{wrong}:{secure.port}/"), patient, _local)
        assert answer == Answer(error="SSLCertVerificationError")


def test_a_certificate_that_nobody_trusts_is_refused(
    secure: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SSL_CERT_FILE")
    answer = send(_parcel(f"https://a.example:{secure.port}/"), LOCAL, _local)
    assert answer == Answer(error="SSLCertVerificationError")
