"""One attempt to deliver one event.

The name is resolved once, every answer is vetted, and exactly that address is connected to, with
the Host header and the TLS name of the URL; so a resolver that changes its answer gains nothing.
Redirects are not followed. Written on ``http.client`` because the time limit is for the whole
attempt: the time-outs of HTTP libraries begin anew with every byte that arrives.
"""

import io
import math
import re
import socket
import ssl
import time
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http.client import HTTPConnection, HTTPException
from typing import Any

from app.config import Settings
from app.errors import WebhookURLRefused
from app.webhooks import addresses, signing
from app.webhooks.addresses import Address, Resolver, Target
from app.webhooks.outbox import Answer, Parcel

_LONGEST_DATE = 40  # "Wednesday, 09-Nov-94 08:49:37 GMT", and some spaces


def send(parcel: Parcel, settings: Settings, resolver: Resolver = addresses.resolve) -> Answer:
    """Post the event; every way in which that can go wrong is an Answer, not an exception."""
    try:
        target = addresses.parse(parcel.url)
        reachable = addresses.vet(target, settings, resolver)
    except WebhookURLRefused as error:
        return Answer(error=error.message)
    except OSError:
        return Answer(error="The host name does not resolve.")
    try:
        return _post(parcel, target, reachable[0], settings.webhook_timeout_seconds)
    except (OSError, HTTPException) as error:
        return Answer(error=type(error).__name__)


def _post(parcel: Parcel, target: Target, address: Address, seconds: float) -> Answer:
    end = time.monotonic() + seconds
    with socket.create_connection((str(address), target.port), seconds) as plain:
        plain.settimeout(_left(end))
        with _secured(plain, target) as stream:
            try:
                return _exchange(parcel, target, Timed(stream, end))
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


def _exchange(parcel: Parcel, target: Target, stream: Timed) -> Answer:
    signed = signing.headers(
        parcel.secret,
        parcel.body,
        message_id=f"msg_{parcel.id.hex}",
        timestamp=int(time.time()),
    )
    headers = {
        "Host": target.authority,
        "Content-Type": "application/json",
        "User-Agent": "GPTQueue-Webhooks/1",
        **signed,
    }
    connection = HTTPConnection(target.host, target.port)
    connection.sock = stream
    connection.request("POST", target.path, parcel.body, headers)
    with connection.getresponse() as response:  # beyond status and headers it does not matter
        retry_after = response.headers.get("Retry-After", "")
        return Answer(response.status, retry_after_seconds=_seconds(retry_after))


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
