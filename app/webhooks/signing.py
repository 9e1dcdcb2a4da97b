"""Standard Webhooks signatures of ``id.timestamp.body``: HMAC-SHA256 (v1) and ed25519 (v1a).

https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
Written by hand because the reference package signs aware non-UTC times wrongly, raises four
kinds of exception on hostile input and knows v1 alone; the tests verify ours with that package.
"""

import base64
import binascii
import hashlib
import hmac
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

_PREFIX = "whsec_"
_PRIVATE = "whsk_"
_PUBLIC = "whpk_"
_TIMESTAMP = re.compile("[1-9][0-9]{0,14}")
_FEWEST_BYTES, _MOST_BYTES = 24, 64
TOLERANCE_SECONDS = 300


@dataclass(frozen=True, slots=True)
class Keys:
    """What signs one event: every secret that is valid, the newest first, and a private key."""

    secrets: tuple[str, ...]
    private_key: str | None = None


def new_secret() -> str:
    """A fresh secret with 256 random bits."""
    return _PREFIX + base64.b64encode(secrets.token_bytes(32)).decode()


def new_private_key() -> str:
    """A fresh ed25519 key."""
    return _PRIVATE + base64.b64encode(secrets.token_bytes(32)).decode()


def is_secret(text: str) -> bool:
    """Whether it is a secret of the form and length that the specification asks for."""
    try:
        length = len(base64.b64decode(text.removeprefix(_PREFIX), validate=True))
    except ValueError:
        return False
    return text.startswith(_PREFIX) and _FEWEST_BYTES <= length <= _MOST_BYTES


def public_key(private_key: str) -> str:
    """What verifies the signatures of this key."""
    raw = _signer(private_key).public_key().public_bytes_raw()
    return _PUBLIC + base64.b64encode(raw).decode()


def headers(keys: Keys, body: bytes, *, message_id: str, timestamp: int) -> dict[str, str]:
    """The three headers of one attempt; ``timestamp`` is the attempt's, in Unix seconds."""
    signed = _signed(message_id, timestamp, body)
    signatures = ["v1," + _digest(each, signed) for each in keys.secrets]
    if keys.private_key is not None:
        raw = _signer(keys.private_key).sign(signed)
        signatures.append("v1a," + base64.b64encode(raw).decode())
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": " ".join(signatures),
    }


def verify(secret: str, received: Mapping[str, str], body: bytes, *, now: float) -> bool:
    """Whether a received event is authentic and at most five minutes old (or early).

    ``received`` holds the request's headers under lower-case names; ``now`` is in Unix seconds.
    """
    message_id = received.get("webhook-id", "")
    timestamp = received.get("webhook-timestamp", "")
    signatures = received.get("webhook-signature", "")
    if not message_id or not _TIMESTAMP.fullmatch(timestamp):
        return False
    if not (message_id + signatures).isascii() or abs(now - int(timestamp)) > TOLERANCE_SECONDS:
        return False
    expected = "v1," + _digest(secret, _signed(message_id, int(timestamp), body))
    return any(hmac.compare_digest(expected, each) for each in signatures.split(" "))


def _signed(message_id: str, timestamp: int, body: bytes) -> bytes:
    return f"{message_id}.{timestamp}.".encode() + body


def _digest(secret: str, signed: bytes) -> str:
    digest = hmac.new(_key(secret), signed, hashlib.sha256).digest()
    return base64.b64encode(digest).decode()


def _key(secret: str) -> bytes:
    try:
        return base64.b64decode(secret.removeprefix(_PREFIX), validate=True)
    except binascii.Error as error:
        raise ValueError("a webhook secret is whsec_ and base64") from error


@lru_cache(maxsize=1024)  # to make one takes as long as to sign with it
def _signer(private_key: str) -> Ed25519PrivateKey:
    raw = base64.b64decode(private_key.removeprefix(_PRIVATE), validate=True)
    return Ed25519PrivateKey.from_private_bytes(raw)
