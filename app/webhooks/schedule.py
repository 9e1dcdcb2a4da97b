"""When a failed delivery is tried again: the schedule of the Standard Webhooks specification."""

from datetime import timedelta

# After the first attempt, which is made at once: the wait before each further one.
_DELAYS = (
    timedelta(seconds=5),
    timedelta(minutes=5),
    timedelta(minutes=30),
    timedelta(hours=2),
    timedelta(hours=5),
    timedelta(hours=10),
    timedelta(hours=14),
    timedelta(hours=20),
    timedelta(hours=24),
)
_LONGEST_RETRY_AFTER = timedelta(hours=24)
FAILING_AT_MOST = timedelta(days=5)  # without any success; then the endpoint is disabled


def delay_after(attempts: int, retry_after_seconds: int | None = None) -> timedelta | None:
    """The wait after that many failed attempts, or None when the schedule is used up.

    A receiver's Retry-After can make the wait longer (a day at most), never shorter.
    """
    if attempts > len(_DELAYS):
        return None
    delay = _DELAYS[attempts - 1]
    if retry_after_seconds is not None:
        # Bounded before it becomes a timedelta, which overflows on hostile numbers.
        asked = min(max(retry_after_seconds, 0), int(_LONGEST_RETRY_AFTER.total_seconds()))
        delay = max(delay, timedelta(seconds=asked))
    return delay
