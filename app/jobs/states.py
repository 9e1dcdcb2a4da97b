"""The states of a job and the arrows between them, as data."""

from enum import StrEnum


class Status(StrEnum):
    """Where a job stands."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"


TERMINAL = frozenset({Status.SUCCEEDED, Status.FAILED, Status.CANCELLED, Status.EXPIRED})

TRANSITIONS: frozenset[tuple[Status, Status]] = frozenset(
    {
        (Status.QUEUED, Status.RUNNING),  # claim: attempt + 1, lease set
        (Status.QUEUED, Status.CANCELLED),  # cancel: hold released
        (Status.QUEUED, Status.EXPIRED),  # deadline: hold released
        (Status.RUNNING, Status.SUCCEEDED),  # finish: usage charged
        (Status.RUNNING, Status.FAILED),  # finish, or rescue with no attempt left: released
        (Status.RUNNING, Status.CANCELLED),  # cancel seen by the engine: partial usage charged
        (Status.RUNNING, Status.EXPIRED),  # deadline seen by the engine: partial usage charged
        (Status.RUNNING, Status.QUEUED),  # rescue: the lease ran out, attempts left; or hand-back
    }
)


class Outcome(StrEnum):
    """How one attempt at a job ended; RUNNING while it has not."""

    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"
    LOST = "lost"  # its worker stopped renewing the lease, or its engine died
    HANDED_BACK = "handed_back"  # its worker was asked to stop, and gave the job to others
