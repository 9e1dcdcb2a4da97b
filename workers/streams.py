"""The text of jobs in hand as it grows, told to the API processes that follow them.

Nothing is published of a job that nobody follows; what a follower missed it asks for again.
"""

import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from uuid import UUID

from app import streams
from app.hearing import Hearing
from app.jobs.transition import Lease
from app.queues import Broker
from app.streams import Follow, Piece
from workers.engines.base import Delta

# What waits to be sent while the broker is slow; who missed the oldest asks again.
_MOST_WAITING = 10_000

Stream = Callable[[str], None]  # Engine.stream
Channels = list[str]


@dataclass(slots=True)
class _Growing:
    """A job in hand."""

    lease: Lease
    stream: Stream
    parts: list[str] = field(default_factory=list)
    length: int = 0  # characters


class Streams:
    """Hears who follows what, and sends them the pieces, in a thread of its own."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._hearing = Hearing(broker, [streams.FOLLOWED], take=self._hear, begin=lambda: None)
        self._lock = threading.Lock()
        self._growing: dict[str, _Growing] = {}  # by request id
        self._requests: dict[UUID, str] = {}  # by job
        # Of each job that is followed, here or elsewhere: the channels, and until when.
        self._followers: dict[UUID, dict[str, float]] = {}
        self._waiting: deque[tuple[Channels, Piece]] = deque(maxlen=_MOST_WAITING)
        self._fresh = threading.Event()
        self._closed = False

    def start(self) -> None:
        """Begin to listen and to send."""
        self._hearing.start()
        threading.Thread(target=self._send, name="streams", daemon=True).start()

    def close(self) -> None:
        """Stop both."""
        self._closed = True
        self._hearing.close()
        self._fresh.set()

    @contextmanager
    def telling(self, lease: Lease, request_id: str, *, stream: Stream) -> Iterator[None]:
        """During the block this job's text is told to its followers; ``stream`` asks its engine for
        it.
        """
        growing = _Growing(lease, stream)
        with self._lock:
            self._growing[request_id] = growing
            self._requests[lease.job_id] = request_id
            channels = self._channels(lease.job_id)
        if channels:
            self._post(channels, Piece(lease.job_id, lease.attempt, 0, ""))
        try:
            yield
        finally:
            with self._lock:
                del self._growing[request_id]
                if self._requests.get(lease.job_id) == request_id:
                    del self._requests[lease.job_id]

    def ask(self, lease: Lease, request_id: str) -> None:
        """The engine has the request now: ask for its text if somebody follows it."""
        with self._lock:
            growing = self._growing[request_id] if self._channels(lease.job_id) else None
        if growing is not None:
            growing.stream(request_id)

    def publish(self, deltas: Sequence[Delta]) -> None:
        """The engine's publisher."""
        with self._lock:
            for delta in deltas:
                growing = self._growing.get(delta.request_id)
                if growing is not None:
                    self._grow(growing, streams.storable(delta.text))

    def _grow(self, growing: _Growing, text: str) -> None:
        lease = growing.lease
        piece = Piece(lease.job_id, lease.attempt, growing.length, text)
        growing.parts.append(text)
        growing.length += len(text)
        self._post(self._channels(lease.job_id), piece)

    def _hear(self, channel: str, message: bytes) -> None:
        follow = streams.read_follow(message)
        with self._lock:
            wanted = [job_id for job_id in follow.job_ids if self._note(follow, job_id)]
            requests = [self._requests[each] for each in wanted if each in self._requests]
            asked = {each: self._growing[each] for each in requests}
            for growing in asked.values():
                self._tell_whole(follow, growing)
            self._forget()
        for request_id, growing in asked.items():
            growing.stream(request_id)

    def _note(self, follow: Follow, job_id: UUID) -> bool:
        """Remember the follower; whether it has to be told the text so far."""
        known = self._followers.setdefault(job_id, {})
        fresh = follow.channel not in known
        known[follow.channel] = time.monotonic() + streams.FORGOTTEN_SECONDS
        return fresh or follow.whole

    def _tell_whole(self, follow: Follow, growing: _Growing) -> None:
        lease = growing.lease
        text = "".join(growing.parts)
        growing.parts = [text]
        self._post([follow.channel], Piece(lease.job_id, lease.attempt, 0, text))

    def _channels(self, job_id: UUID) -> Channels:
        known = self._followers.get(job_id)
        if not known:
            return []
        now = time.monotonic()
        return [channel for channel, until in known.items() if until > now]

    def _forget(self) -> None:
        now = time.monotonic()
        for job_id, channels in list(self._followers.items()):
            for channel in [each for each, until in channels.items() if until < now]:
                del channels[channel]
            if not channels:
                del self._followers[job_id]

    def _post(self, channels: Channels, piece: Piece) -> None:
        self._waiting.append((channels, piece))
        self._fresh.set()

    def _send(self) -> None:
        while self._fresh.wait() and not self._closed:
            self._fresh.clear()
            pieces: dict[str, list[Piece]] = defaultdict(list)
            while self._waiting:
                channels, piece = self._waiting.popleft()
                for channel in channels:
                    pieces[channel].append(piece)
            self._broker.publish(
                (channel, streams.write_pieces(some)) for channel, some in pieces.items()
            )
