"""How often, and how soon, an engine's process that died is started again."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Patience:
    """The pause doubles, from ``first_seconds`` to ``most_seconds``, with each process that died
    before it had worked for ``settled_seconds``; after so many ``deaths`` of that kind in a row,
    without an answer between them, it is enough.

    An answer does not shorten the pause: an engine that gives one and dies, over and over, must not
    load its model every few seconds. But it keeps the engine from being given up: where jobs that
    kill engines come among good ones, ``max_attempts`` ends them, and a new worker would only be
    killed in its turn.
    """

    first_seconds: float = 1.0
    most_seconds: float = 60.0
    deaths: int = 5
    settled_seconds: float = 60.0


class Restarts:
    """Counts the deaths of one engine's processes."""

    def __init__(self, patience: Patience) -> None:
        self._patience = patience
        self._pause = 0.0
        self._fruitless = 0  # deaths in a row
        self.total = 0

    def died(self, *, ran_seconds: float, served: bool) -> float | None:
        """How many seconds to wait before the next start; None: it is not worth another.

        The process worked for ``ran_seconds``; it ``served`` if it gave an answer.
        """
        patience = self._patience
        settled = ran_seconds >= patience.settled_seconds
        self._fruitless = 1 if settled or served else self._fruitless + 1
        if self._fruitless >= patience.deaths:
            return None
        self.total += 1
        longer = patience.first_seconds if settled or not self._pause else 2 * self._pause
        self._pause = min(longer, patience.most_seconds)
        return self._pause
