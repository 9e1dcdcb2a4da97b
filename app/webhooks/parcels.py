"""What a sender is given, and what it brings back."""

from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from app.webhooks.endpoints import Address
from app.webhooks.signing import Keys


@dataclass(frozen=True, slots=True)
class Parcel:
    """All that one attempt needs; ``attempt`` fences it like a job's. So many of the attempts came
    ``before`` its schedule began anew. ``failing`` tells that the endpoint's last ones failed.
    """

    id: UUID
    attempt: int
    account_id: UUID
    host: str
    url: str
    body: bytes
    keys: Keys
    before: int = 0
    failing: bool = False

    @property
    def address(self) -> Address:
        """Its endpoint."""
        return Address(self.account_id, self.url, self.host)


@dataclass(slots=True)
class Trace:
    """What an attempt sent, how long it took, and how the body of the answer began."""

    started: datetime
    duration_ms: int = 0
    headers: dict[str, str] | None = None
    body: str | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """How one attempt went: an HTTP status, or an error when there was no answer."""

    status: int | None = None
    error: str | None = None
    retry_after_seconds: int | None = None
    trace: Trace | None = field(default=None, compare=False)

    @property
    def accepted(self) -> bool:
        """Any 2xx is a yes; a redirect is not."""
        return self.status is not None and 200 <= self.status < 300

    @property
    def gone(self) -> bool:
        """The receiver wants no more of these."""
        return self.status == 410


Sent = tuple[Parcel, Answer]
