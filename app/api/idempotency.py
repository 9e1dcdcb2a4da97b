"""The Idempotency-Key header of a submit."""

import hashlib
import re

from flask import g, request

from app.errors import InvalidRequest
from app.jobs.submit import Idempotency


def sent_key() -> str | None:
    """The client's key; raises InvalidRequest for one that cannot be stored."""
    key = request.headers.get("Idempotency-Key")
    if key is not None and not re.fullmatch(r"[\x21-\x7e]{1,255}", key):
        raise InvalidRequest("Idempotency-Key has 1 to 255 visible ASCII characters.")
    return key


def idempotency(number: int = 0) -> Idempotency | None:
    """The key of this request, with a hash of it; of its job of that ``number``, if it makes many.

    Raises InvalidRequest.
    """
    key = sent_key()
    if key is None:
        return None
    if "request_digest" not in g:  # a batch asks for it a thousand times
        sent = request.path.encode() + b"\n" + request.get_data()
        g.request_digest = hashlib.sha256(sent).digest()
    # A space, which no client's key has.
    return Idempotency(key=f"{key} {number}" if number else key, request_hash=g.request_digest)
