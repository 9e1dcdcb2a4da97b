"""One attempt to deliver one event.

The name is resolved once, every answer is vetted, and exactly that address is connected to, with
the Host header and the TLS name of the URL; so a resolver that changes its answer gains nothing.
Redirects are not followed. Written on ``http.client`` because the time limit is for the whole
attempt: the time-outs of HTTP libraries begin anew with every byte that arrives.
"""

import math
import re
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http.client import HTTPConnection, HTTPException

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
        plain.settimeout(max(end - time.monotonic(), 0.001))
        with _secured(plain, target) as stream, _cut_off(stream, end):
            return _exchange(parcel, target, stream)


def _secured(plain: socket.socket, target: Target) -> socket.socket:
    if target.scheme == "http":
        return plain
    return ssl.create_default_context().wrap_socket(plain, server_hostname=target.host)


@contextmanager
def _cut_off(stream: socket.socket, end: float) -> Iterator[None]:
    """End the exchange at ``end``, however busy the receiver keeps it."""
    timer = threading.Timer(max(end - time.monotonic(), 0), _shut_down, [stream])
    timer.start()
    try:
        yield
    except (OSError, HTTPException) as error:
        if time.monotonic() >= end:
            raise TimeoutError from error
        raise
    finally:
        timer.cancel()


def _shut_down(stream: socket.socket) -> None:
    with suppress(OSError):
        # Not the SSLSocket's own method, which may not be called while another thread reads.
        socket.socket.shutdown(stream, socket.SHUT_RDWR)


def _exchange(parcel: Parcel, target: Target, stream: socket.socket) -> Answer:
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
