"""How often, and how soon, an engine's process that died is started again."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Patience:
    """The pause doubles with each death in a row, from ``first_seconds`` to ``most_seconds``; at
    the death number ``deaths`` it is enough. A process that ran for ``settled_seconds`` or served
    a request begins a new row.
    """

    first_seconds: float = 1.0
    most_seconds: float = 60.0
    deaths: int = 5
    settled_seconds: float = 60.0


class Restarts:
    """Counts the deaths of one engine's processes."""

    def __init__(self, patience: Patience) -> None:
        self._patience = patience
        self._row = 0
        self.total = 0

    def died(self, *, ran_seconds: float, served: bool) -> float | None:
        """How many seconds to wait before the next start; None: it is not worth another."""
        settled = served or ran_seconds >= self._patience.settled_seconds
        self._row = 1 if settled else self._row + 1
        if self._row >= self._patience.deaths:
            return None
        self.total += 1
        pause = self._patience.first_seconds * 2 ** (self._row - 1)
        return float(min(pause, self._patience.most_seconds))
