"""Tokens per second, from counters that workers report every few seconds."""

from collections import deque

from app.cli.top.snapshot import Snapshot

# Several heartbeats: of one alone, a rate would be nothing most of the time and too much at times.
WINDOW_SECONDS = 15.0


class Pace:
    """The last snapshots."""

    def __init__(self) -> None:
        self._kept: deque[Snapshot] = deque()

    def note(self, now: Snapshot) -> dict[str, float] | None:
        """Tokens per second of each model, None until there is something to compare with."""
        self._kept.append(now)
        while len(self._kept) > 2 and self._kept[1].at <= now.at - WINDOW_SECONDS:
            self._kept.popleft()
        passed = now.at - self._kept[0].at
        if not passed or not now.has_metrics:
            return None
        rates = {model.name: 0.0 for model in now.models}
        for model, tokens in self._fresh().items():
            rates[model] = tokens / passed
        return rates

    def _fresh(self) -> dict[str, int]:
        """The tokens of each model in the window; a counter that fell belongs to a new process."""
        fresh: dict[str, int] = {}
        before = self._kept[0].generated
        for each in list(self._kept)[1:]:
            for worker, count in each.generated.items():
                grown = count - before.get(worker, count)
                fresh[worker[0]] = fresh.get(worker[0], 0) + (grown if grown >= 0 else count)
            before = before | each.generated
        return fresh
