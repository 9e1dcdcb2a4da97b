"""How long a forward pass takes, and whether that is too long."""

import time

# A prompt runs in one piece here; so long as the limit is for so many of its tokens.
PROMPT_TOKENS = 256
# A process that stood still as a whole has a pass that looks old, and ends soon: it is asked twice.
DOUBT_SECONDS = 1.0


class Clock:
    """One thread starts and stops it, others look."""

    def __init__(self, stall_seconds: float) -> None:
        """``stall_seconds`` are allowed to a pass, and to each PROMPT_TOKENS of a prompt."""
        self._stall_seconds = self.allowed = stall_seconds
        self._began: float | None = None  # monotonic seconds
        self._doubted: tuple[float, float] | None = None  # a pass, by its beginning, and since when

    def start(self, *, tokens: int = 1) -> None:
        """A pass over so many ``tokens`` of prompts begins."""
        self.allowed = self._stall_seconds * max(1.0, tokens / PROMPT_TOKENS)
        self._began = time.monotonic()

    def stop(self) -> None:
        """There is no pass now."""
        self._began = None

    def hangs(self) -> bool:
        """Whether the pass of now takes too long, and did so a moment ago."""
        now, began = time.monotonic(), self._began
        if began is None or now - began <= self.allowed:
            return False
        if self._doubted is None or self._doubted[0] != began:
            self._doubted = began, now
        return now - self._doubted[1] >= DOUBT_SECONDS
