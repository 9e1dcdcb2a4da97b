"""API keys: ``gq_<public id>_<secret><checksum>``.

The checksum (CRC-32 of all that stands before it, in base 62) lets a mistyped key be refused
without a query, and lets secret scanners recognise a real one, as GitHub's tokens do. The secret
has 190 random bits, so a plain SHA-256 of it is as good as a slow hash.
"""

import hashlib
import secrets
import string
import zlib
from dataclasses import dataclass

_ALPHABET = string.digits + string.ascii_letters
_PUBLIC_LENGTH, _SECRET_LENGTH, _CHECKSUM_LENGTH = 12, 32, 6


@dataclass(frozen=True, slots=True)
class Key:
    """A well-formed key, taken apart."""

    public_id: str
    secret: str

    def __str__(self) -> str:
        body = f"gq_{self.public_id}_{self.secret}"
        return body + _checksum(body)

    @property
    def secret_hash(self) -> bytes:
        """What is stored: the SHA-256 of the secret."""
        return hashlib.sha256(self.secret.encode()).digest()

    def matches(self, stored_hash: bytes) -> bool:
        """Whether the secret is the stored one, compared in constant time."""
        return secrets.compare_digest(self.secret_hash, stored_hash)


def generate() -> Key:
    """A new random key."""
    return Key(public_id=_random(_PUBLIC_LENGTH), secret=_random(_SECRET_LENGTH))


def parse(text: str) -> Key | None:
    """Take a key apart, or None when its form or its checksum is wrong."""
    head, _, rest = text.removeprefix("gq_").partition("_")
    secret, checksum = rest[:_SECRET_LENGTH], rest[_SECRET_LENGTH:]
    key = Key(public_id=head, secret=secret)
    lengths = (len(head), len(secret), len(checksum))
    if lengths != (_PUBLIC_LENGTH, _SECRET_LENGTH, _CHECKSUM_LENGTH):
        return None
    if not text.isascii() or not f"{head}{rest}".isalnum():
        return None
    return key if secrets.compare_digest(str(key), text) else None


def _random(length: int) -> str:
    return "".join(secrets.choice(_ALPHABET) for _ in range(length))


def _checksum(body: str) -> str:
    number, digits = zlib.crc32(body.encode()), ""
    for _ in range(_CHECKSUM_LENGTH):
        number, digit = divmod(number, len(_ALPHABET))
        digits = _ALPHABET[digit] + digits
    return digits
