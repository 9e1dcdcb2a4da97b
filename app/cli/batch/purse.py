"""What to do when the account's credit does not cover a line's hold."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from app.cli.batch.errors import CannotGoOn


class Purse:
    """Knows whether waiting may help: a job that ends gives back what it held too much."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._in_hand = 0
        self.settled = 0

    @contextmanager
    def line(self) -> Iterator[None]:
        """Around a line, from before its submit (which may hold credit) to its job's end."""
        self._move(in_hand=1)
        try:
            yield
        except BaseException:
            self._move(in_hand=-1)
            raise
        self._move(in_hand=-1, settled=1)

    def wait(self, seen: int, refusal: str) -> None:
        """For a line that was refused: return when one has settled since ``settled`` was ``seen``.

        Raises CannotGoOn with the API's refusal when no line is left that could.
        """
        self._move(in_hand=-1)
        try:
            with self._changed:
                self._changed.wait_for(lambda: self.settled != seen or not self._in_hand)
                if self.settled == seen:
                    raise CannotGoOn(f"The credit is used up: {refusal}")
        finally:
            self._move(in_hand=1)

    def _move(self, *, in_hand: int, settled: int = 0) -> None:
        with self._changed:
            self._in_hand += in_hand
            self.settled += settled
            self._changed.notify_all()
