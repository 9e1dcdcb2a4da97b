"""One attempt to deliver one event.

The name is resolved once, every answer is vetted, and exactly that address is connected to, with
the Host header and the TLS name of the URL; so a resolver that changes its answer gains nothing.
Redirects are not followed. Written on ``http.client`` because the time limit is for the whole
attempt: the time-outs of HTTP libraries begin anew with every byte that arrives.
"""

import codecs
import io
import math
import re
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http.client import HTTPConnection, HTTPException, HTTPResponse
from typing import Any
from uuid import UUID

from app.config import Settings
from app.errors import WebhookURLRefused
from app.webhooks import addresses, signing
from app.webhooks.addresses import Address, Resolver, Target
from app.webhooks.parcels import Answer, Parcel, Trace

_LONGEST_DATE = 40  # "Wednesday, 09-Nov-94 08:49:37 GMT", and some spaces
_KEPT_BYTES = 1000  # of the body of an answer, for whoever looks for a fault in the receiver
_BODY_SECONDS = 1.0  # it decides nothing, so a sender is not held up for it


def send(parcel: Parcel, settings: Settings, resolver: Resolver = addresses.resolve) -> Answer:
    """Post the event; every way in which that can go wrong is an Answer, not an exception."""
    trace, begun = Trace(datetime.now(UTC)), time.monotonic()
    answer = _send(parcel, settings, resolver, trace)
    trace.duration_ms = round((time.monotonic() - begun) * 1000)
    return replace(answer, trace=trace)


def _send(parcel: Parcel, settings: Settings, resolver: Resolver, trace: Trace) -> Answer:
    try:
        target = addresses.parse(parcel.url)
        reachable = addresses.vet(target, settings, resolver)
    except WebhookURLRefused as error:
        return Answer(error=error.message)
    except OSError:
        return Answer(error="The host name does not resolve.")
    try:
        with _connected(target, reachable[0], settings.webhook_timeout_seconds) as stream:
            return _exchange(parcel, target, stream, trace)
    except (OSError, HTTPException) as error:
        return Answer(error=type(error).__name__)


@contextmanager
def _connected(target: Target, address: Address, seconds: float) -> Iterator["Timed"]:
    end = time.monotonic() + seconds
    with socket.create_connection((str(address), target.port), seconds) as plain:
        plain.settimeout(_left(end))
        with _secured(plain, target) as stream:
            try:
                yield Timed(stream, end)
            except (OSError, HTTPException) as error:
                if time.monotonic() >= end:
                    raise TimeoutError from error
                raise


def _left(end: float) -> float:
    seconds = end - time.monotonic()
    if seconds <= 0:
        raise TimeoutError
    return seconds


def _secured(plain: socket.socket, target: Target) -> socket.socket:
    if target.scheme == "http":
        return plain
    return ssl.create_default_context().wrap_socket(plain, server_hostname=target.host)


class Timed:
    """A socket, as far as ``http.client`` uses one, that works until ``end`` and not longer,
    however busy the receiver keeps it.
    """

    def __init__(self, stream: socket.socket, end: float) -> None:
        self._stream = stream
        self._end = end

    def sendall(self, data: bytes) -> None:
        """Send; raises TimeoutError."""
        while data:
            self._stream.settimeout(_left(self._end))
            data = data[self._stream.send(data) :]

    def hurry(self, seconds: float) -> None:
        """Work for so much longer at most."""
        self._end = min(self._end, time.monotonic() + seconds)

    def receive(self, buffer: Any) -> int:
        """Receive what has come, into the buffer. When time is over, so is the answer: a status
        that was said by then holds.
        """
        try:
            self._stream.settimeout(_left(self._end))
            return self._stream.recv_into(buffer)
        except TimeoutError:
            return 0

    def makefile(self, mode: str) -> io.BufferedReader:
        """What the answer is read from."""
        return io.BufferedReader(_Received(self))

    def close(self) -> None:
        """Nothing: who opened the socket closes it."""


class _Received(io.RawIOBase):
    def __init__(self, stream: Timed) -> None:
        self._stream = stream

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        return self._stream.receive(buffer)


def _exchange(parcel: Parcel, target: Target, stream: Timed, trace: Trace) -> Answer:
    trace.headers = _headers(parcel, target)
    connection = HTTPConnection(target.host, target.port)
    connection.sock = stream
    connection.request("POST", target.path, parcel.body, trace.headers)
    with connection.getresponse() as response:
        stream.hurry(_BODY_SECONDS)
        trace.body = _beginning(response)
        retry_after = response.headers.get("Retry-After", "")
        return Answer(response.status, retry_after_seconds=_seconds(retry_after))


def _headers(parcel: Parcel, target: Target) -> dict[str, str]:
    """All of them: ``http.client`` would add the last two by itself."""
    return {
        "Host": target.authority,
        "Content-Type": "application/json",
        "User-Agent": "GPTQueue-Webhooks/1",
        **signing.headers(
            parcel.keys,
            parcel.body,
            message_id=message_id(parcel.id),
            timestamp=int(time.time()),
        ),
        "Content-Length": str(len(parcel.body)),
        "Accept-Encoding": "identity",
    }


def message_id(delivery_id: UUID) -> str:
    """What a receiver knows a delivery by: the same at every attempt."""
    return f"msg_{delivery_id.hex}"


def _beginning(response: HTTPResponse) -> str:
    """How the body begins, as a text that PostgreSQL can keep; whatever is wrong with it."""
    body = b""
    with suppress(OSError, HTTPException, ValueError):
        body = response.read(_KEPT_BYTES)
    decoder = codecs.getincrementaldecoder("utf-8")("replace")  # which drops half a last letter
    return decoder.decode(body).replace("\x00", "\ufffd")


def _seconds(retry_after: str) -> int | None:
    """Both forms of RFC 9110, section 10.2.3: seconds, or a date."""
    if re.fullmatch("[0-9]{1,9}", retry_after):
        return int(retry_after)
    if len(retry_after) > _LONGEST_DATE:
        return None
    try:
        date = parsedate_to_datetime(retry_after)
        date = date if date.tzinfo else date.replace(tzinfo=UTC)
        return math.ceil((date - datetime.now(UTC)).total_seconds())
    except (ValueError, OverflowError):
        return None
