"""What the engine's loop costs by itself: steps with a model that does nothing.

512 requests decode together, all of them streaming; what a step takes is then scheduling,
sampling's bookkeeping, and telling 512 clients.
"""

REQUESTS = 512
# Of transformers 5.23's continuous batching, measured before and not in this run.
CONTINUOUS_MS = 9.7


def step_milliseconds(seconds: float) -> float | None:
    """One step of our loop, the mean over so long; None: our engine has no such model yet."""
    del seconds
    return None
