"""When a forward pass has taken too long."""

import pytest

from workers.engines.transformers import clock
from workers.engines.transformers.clock import Clock


class Now:
    """Monotonic seconds."""

    seconds = 100.0

    def monotonic(self) -> float:
        """The present."""
        return self.seconds


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> Now:
    """The clock on the wall, in our hands."""
    made = Now()
    monkeypatch.setattr(clock, "time", made)
    return made


def test_a_pass_that_takes_too_long_hangs_when_it_is_asked_twice(now: Now) -> None:
    made = Clock(10)
    made.start()
    now.seconds += 10
    assert not made.hangs()
    now.seconds += 1
    assert not made.hangs()
    now.seconds += 1
    assert made.hangs()


def test_a_process_that_stood_still_does_not_hang(now: Now) -> None:
    made = Clock(10)
    made.start()
    now.seconds += 3600
    assert not made.hangs()
    made.start()
    now.seconds += 9
    assert not made.hangs()
    now.seconds += 3600
    assert not made.hangs()


def test_between_two_passes_nothing_hangs(now: Now) -> None:
    made = Clock(10)
    made.start()
    made.stop()
    now.seconds += 3600
    assert [made.hangs(), made.hangs()] == [False, False]


def test_a_long_prompt_has_more_time(now: Now) -> None:
    made = Clock(10)
    made.start(tokens=2560)
    now.seconds += 100
    assert not made.hangs()
    now.seconds += 1
    made.hangs()
    now.seconds += 1
    assert made.hangs()
