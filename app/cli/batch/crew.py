"""Many threads for one stream of things to do; results come back to the caller one by one."""

import queue
import threading
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class Crew(Generic[Item, Result]):
    """Takes items only as threads get free, so that memory stays the same for any input.

    The first exception stops the taking; what is in work is finished, then it is raised.
    """

    def __init__(self, items: Iterator[Item], do: Callable[[Item], Result], threads: int) -> None:
        self._items = items
        self._do = do
        self._threads = threads
        self._taking = threading.Lock()
        self._results: queue.Queue[Result | None] = queue.Queue(maxsize=threads)
        self._failure: Exception | None = None

    def results(self) -> Iterator[Result]:
        """Start, and yield what comes back."""
        for number in range(self._threads):
            # Daemons: after Ctrl-C nobody waits for a thread that waits for an answer.
            threading.Thread(target=self._work, name=f"crew-{number}", daemon=True).start()
        working = self._threads
        while working:
            result = self._results.get()
            if result is None:
                working -= 1
            else:
                yield result
        if self._failure is not None:
            raise self._failure

    def _work(self) -> None:
        try:
            while (item := self._take()) is not None:
                self._results.put(self._do(item))
        except Exception as error:
            self._failure = self._failure or error
        finally:
            self._results.put(None)

    def _take(self) -> Item | None:
        with self._taking:
            return None if self._failure else next(self._items, None)
