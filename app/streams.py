"""What workers and the API tell one another about text that grows, over the broker's channels.

A channel keeps nothing and may lose anything. So a piece of text says where it belongs: who missed
one sees the gap and asks for the whole text so far. An API process says which jobs it follows, and
says so again every few seconds, also for workers that begin later; the workers that have those jobs
in hand tell them to the channel of that process.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

ENDED = "gptqueue.ended"  # the ids of jobs, as they end
FOLLOWED = "gptqueue.followed"  # who follows which jobs
REFRESH_SECONDS = 4.0
FORGOTTEN_SECONDS = 15.0  # after a follower was heard of the last time


@dataclass(frozen=True, slots=True)
class Piece:
    """Text of a job, by one attempt at it, from ``offset`` (in characters) on.

    An empty one at 0 says that the attempt has begun.
    """

    job_id: UUID
    attempt: int
    offset: int
    text: str


@dataclass(frozen=True, slots=True)
class Follow:
    """A process that hears ``channel`` follows these jobs; with ``whole`` it wants their texts from
    the beginning.
    """

    channel: str
    job_ids: Sequence[UUID]
    whole: bool


def storable(text: str) -> str:
    """The text as PostgreSQL can store it: without NUL."""
    return text.replace("\x00", "\ufffd")


def write_pieces(pieces: Sequence[Piece]) -> str:
    """A message of some pieces."""
    return json.dumps([[p.job_id.hex, p.attempt, p.offset, p.text] for p in pieces])


def read_pieces(message: bytes) -> list[Piece]:
    """The pieces of a message."""
    return [
        Piece(UUID(job_id), attempt, offset, text)
        for job_id, attempt, offset, text in json.loads(message)
    ]


def write_follow(follow: Follow) -> str:
    """The message of a follower."""
    job_ids = [each.hex for each in follow.job_ids]
    return json.dumps({"channel": follow.channel, "jobs": job_ids, "whole": follow.whole})


def read_follow(message: bytes) -> Follow:
    """What a follower said."""
    said = json.loads(message)
    return Follow(said["channel"], [UUID(each) for each in said["jobs"]], said["whole"])
