"""A thread that hears channels of the broker, for as long as its process lives."""

import threading
import time
from collections.abc import Callable, Sequence

import structlog

from app.queues import Broker

log = structlog.get_logger(__name__)

_RECONNECT_SECONDS = 1.0


class Hearing:
    """Listens again whenever the broker was away; what was said meanwhile is lost."""

    def __init__(
        self,
        broker: Broker,
        channels: Sequence[str],
        *,
        take: Callable[[str, bytes], None],
        begin: Callable[[], None],
    ) -> None:
        """``take`` gets each message with its channel; ``begin`` is called whenever it listens."""
        self._broker = broker
        self._channels = channels
        self._take, self._begin = take, begin
        self._closed = False

    def start(self) -> None:
        """Begin to listen, in the background."""
        threading.Thread(target=self._run, name="hearing", daemon=True).start()

    def close(self) -> None:
        """Stop listening, within a second."""
        self._closed = True

    def _run(self) -> None:
        complained = False
        while not self._closed:
            try:
                for channel, message in self._broker.heard(self._channels, lambda: self._closed):
                    complained = False
                    self._hear(channel, message)
            except Exception as error:  # whatever it is: who stops listening hears nothing more
                if not complained and not self._closed:
                    log.warning("hearing_interrupted", error=str(error))
                complained = True
                time.sleep(_RECONNECT_SECONDS)

    def _hear(self, channel: str, message: bytes) -> None:
        try:
            if channel:
                self._take(channel, message)
            else:
                self._begin()
        except Exception:
            # A message that nobody understands, of a newer version perhaps: the next may be better.
            log.exception("hearing_failed", channel=channel)
