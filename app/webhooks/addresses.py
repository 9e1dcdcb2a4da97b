"""Which addresses webhooks may go to: public ones, and the networks that a setting lists.

Server-side request forgery is what this prevents. ``ipaddress.is_global`` alone is not enough: it
calls several forms global that carry or reach a private IPv4 address, so those are unwrapped or
refused here by name.
"""

import ipaddress
import re
import socket
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import SplitResult, urlsplit

from app.config import Network, Settings
from app.errors import WebhookURLRefused

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Resolver = Callable[[str, int], list[Address]]

_MAX_URL_LENGTH = 2048
_RESOLVE_SECONDS = 5.0  # with the attempt itself, less than until the webhook is due again
_PRINTABLE = range(0x21, 0x7F)
_NEVER = tuple(
    ipaddress.ip_network(each)
    for each in (
        "192.0.0.0/24",  # IETF protocol assignments
        "192.88.99.0/24",  # 6to4 relay anycast
        "::/96",  # IPv4-compatible
        "64:ff9b::/96",  # NAT64
        "64:ff9b:1::/48",  # NAT64, local use
        "2001::/32",  # Teredo
        "2002::/16",  # 6to4
        "3fff::/20",  # documentation
        "fec0::/10",  # site-local
    )
)


@dataclass(frozen=True, slots=True)
class Target:
    """A parsed webhook URL; ``path`` includes the query."""

    scheme: str
    host: str
    port: int
    path: str

    @property
    def authority(self) -> str:
        """The Host header: the port only where it is not the scheme's own."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        default = {"http": 80, "https": 443}[self.scheme]
        return host if self.port == default else f"{host}:{self.port}"


@lru_cache(maxsize=1024)
def parse(url: str) -> Target:
    """Take a URL apart; raises WebhookURLRefused saying what is wrong with it."""
    if len(url) > _MAX_URL_LENGTH or any(ord(char) not in _PRINTABLE for char in url):
        raise WebhookURLRefused("A webhook URL has at most 2048 visible ASCII characters.")
    parts = _split(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise WebhookURLRefused("A webhook URL begins with http:// or https:// and names a host.")
    if _is_odd(parts.hostname):
        raise WebhookURLRefused("An address is written as four decimal numbers, or in brackets.")
    if parts.username is not None or parts.password is not None:
        raise WebhookURLRefused("A webhook URL carries no user name or password.")
    port = {"http": 80, "https": 443}[parts.scheme] if parts.port is None else parts.port
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Target(parts.scheme, parts.hostname.rstrip("."), port, path)


def _is_odd(host: str) -> bool:
    """Whether it is an address in a form that programs read differently: octal, hexadecimal, short,
    one number, with a zone.
    """
    if "%" in host or ":" in host:
        return "%" in host
    last = host.rstrip(".").rpartition(".")[2]
    if not re.fullmatch("[0-9]+|0[xX][0-9a-fA-F]*", last):
        return False
    try:
        ipaddress.IPv4Address(host)
    except ValueError:
        return True
    return False


def allowed(address: Address, networks: Iterable[Network]) -> bool:
    """Whether webhooks may be sent to this address."""
    address = _unwrapped(address)
    if _listed(address, networks):
        return True
    if any(address in never for never in _NEVER if never.version == address.version):
        return False
    return address.is_global and not address.is_multicast and not address.is_reserved


def resolve(host: str, port: int) -> list[Address]:
    """Every address of a host; raises OSError when it has none, or when nobody says so in time."""
    with suppress(ValueError):
        return [ipaddress.ip_address(host.partition("%")[0])]
    found: Future[list[Address]] = Future()
    # A thread of its own: a resolver that hangs cannot be stopped, and must not delay another.
    threading.Thread(target=_look_up, args=(host, port, found), daemon=True).start()
    return found.result(_RESOLVE_SECONDS)


def vet(target: Target, settings: Settings, resolver: Resolver = resolve) -> list[Address]:
    """The addresses to connect to; raises WebhookURLRefused if a single one is not allowed.

    Raises OSError when the name does not resolve.
    """
    addresses = resolver(target.host, target.port)
    networks = settings.webhook_allowed_networks
    for address in addresses:
        if not allowed(address, networks):
            raise WebhookURLRefused(
                "Webhooks are not sent to private, local or reserved addresses."
            )
        if not (_listed(_unwrapped(address), networks) or _may_use(target.port, settings)):
            raise WebhookURLRefused(f"Webhooks are not sent to port {target.port}.")
    return addresses


def check(url: str, settings: Settings, resolver: Resolver = resolve) -> None:
    """Refuse a URL at submit; one that does not resolve now may resolve when it is needed."""
    target = parse(url)
    try:
        vet(target, settings, resolver)
    except OSError:
        return


def _unwrapped(address: Address) -> Address:
    """The IPv4 address that an IPv6 one stands for on this machine."""
    return (isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped) or address


def _listed(address: Address, networks: Iterable[Network]) -> bool:
    return any(address in network for network in networks if network.version == address.version)


def _may_use(port: int, settings: Settings) -> bool:
    return any(first <= port <= last for first, last in settings.webhook_ports)


def _look_up(host: str, port: int, found: Future[list[Address]]) -> None:
    try:
        rows = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        # A zone id ("fe80::1%eth0") is no part of the address itself.
        texts = [str(row[4][0]).partition("%")[0] for row in rows]
        found.set_result([ipaddress.ip_address(text) for text in texts])
    except Exception as error:
        found.set_exception(error)


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        _ = parts.port  # raises when it is not a number below 65536
        _ = (parts.hostname or "").encode("idna")  # as the resolver will: raises on a bad label
    except ValueError as error:
        raise WebhookURLRefused("This is not a URL.") from error
    return parts
