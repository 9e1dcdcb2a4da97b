"""Which addresses webhooks may go to: public ones, and the networks that a setting lists.

Server-side request forgery is what this prevents. ``ipaddress.is_global`` alone is not enough: it
calls several forms global that carry or reach a private IPv4 address, so those are unwrapped or
refused here by name.
"""

import ipaddress
import socket
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

from app.config import Network
from app.errors import WebhookURLRefused

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Resolver = Callable[[str, int], list[Address]]

_MAX_URL_LENGTH = 2048
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


def parse(url: str) -> Target:
    """Take a URL apart; raises WebhookURLRefused saying what is wrong with it."""
    if len(url) > _MAX_URL_LENGTH or any(ord(char) not in _PRINTABLE for char in url):
        raise WebhookURLRefused("A webhook URL has at most 2048 visible ASCII characters.")
    parts = _split(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise WebhookURLRefused("A webhook URL begins with http:// or https:// and names a host.")
    if parts.username is not None or parts.password is not None:
        raise WebhookURLRefused("A webhook URL carries no user name or password.")
    port = parts.port or {"http": 80, "https": 443}[parts.scheme]
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Target(parts.scheme, parts.hostname.rstrip("."), port, path)


def allowed(address: Address, networks: Iterable[Network]) -> bool:
    """Whether webhooks may be sent to this address."""
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped
    if any(address in network for network in networks if network.version == address.version):
        return True
    if any(address in never for never in _NEVER if never.version == address.version):
        return False
    return address.is_global and not address.is_multicast and not address.is_reserved


def resolve(host: str, port: int) -> list[Address]:
    """Every address of a host; raises OSError when it has none."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    # A zone id ("fe80::1%eth0") is no part of the address itself.
    return [ipaddress.ip_address(str(each[4][0]).partition("%")[0]) for each in found]


def vet(target: Target, networks: Sequence[Network], resolver: Resolver = resolve) -> list[Address]:
    """The addresses to connect to; raises WebhookURLRefused if a single one is not allowed.

    Raises OSError when the name does not resolve.
    """
    addresses = resolver(target.host, target.port)
    for address in addresses:
        if not allowed(address, networks):
            raise WebhookURLRefused(
                "Webhooks are not sent to private, local or reserved addresses."
            )
    return addresses


def check(url: str, networks: Sequence[Network], resolver: Resolver = resolve) -> None:
    """Refuse a URL at submit; one that does not resolve now may resolve when it is needed."""
    target = parse(url)
    try:
        vet(target, networks, resolver)
    except OSError:
        return


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        _ = parts.port  # raises when it is not a number below 65536
        _ = (parts.hostname or "").encode("idna")  # as the resolver will: raises on a bad label
    except ValueError as error:
        raise WebhookURLRefused("This is not a URL.") from error
    return parts
