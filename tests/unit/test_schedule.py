"""When a failed webhook is tried again."""

from datetime import timedelta
from itertools import count, takewhile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.webhooks.schedule import delay_after

DAY = timedelta(hours=24)


def test_the_waits_are_those_of_the_specification_and_then_it_is_given_up() -> None:
    waits = [delay_after(attempts) for attempts in range(1, 12)]
    assert waits == [
        timedelta(seconds=5),
        timedelta(minutes=5),
        timedelta(minutes=30),
        timedelta(hours=2),
        timedelta(hours=5),
        timedelta(hours=10),
        timedelta(hours=14),
        timedelta(hours=20),
        timedelta(hours=24),
        None,
        None,
    ]


def test_a_receiver_is_given_more_than_three_days_and_at_most_five() -> None:
    waits = takewhile(lambda wait: wait is not None, map(delay_after, count(1)))
    total = sum(filter(None, waits), timedelta())
    assert timedelta(days=3) < total < timedelta(days=5)


@pytest.mark.parametrize(
    ("attempts", "asked", "wait"),
    [
        (1, 0, timedelta(seconds=5)),
        (1, 4, timedelta(seconds=5)),
        (1, 6, timedelta(seconds=6)),
        (1, 86_400, DAY),
        (1, 86_401, DAY),
        (1, 10**30, DAY),
        (1, -(10**30), timedelta(seconds=5)),
        (9, 60, DAY),
        (10, 60, None),
    ],
)
def test_a_receiver_can_ask_for_a_longer_wait_but_for_no_shorter_one_and_no_more_tries(
    attempts: int, asked: int, wait: timedelta | None
) -> None:
    assert delay_after(attempts, asked) == wait


@given(st.integers(1, 100), st.none() | st.integers())
def test_a_wait_is_never_shorter_than_scheduled_nor_longer_than_a_day(
    attempts: int, asked: int | None
) -> None:
    scheduled, wait = delay_after(attempts), delay_after(attempts, asked)
    assert (scheduled is None) == (wait is None)
    if scheduled is not None and wait is not None:
        assert scheduled <= wait <= DAY
