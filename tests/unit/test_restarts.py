"""When the process of an engine is started again."""

from workers.engines.native.restarts import Patience, Restarts


def test_the_pauses_double_up_to_the_longest_and_the_last_death_is_final() -> None:
    restarts = Restarts(Patience(deaths=9))
    pauses = [restarts.died(ran_seconds=0, served=False) for _ in range(9)]
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60, None]
    assert restarts.total == 8


def test_five_deaths_in_a_row_are_enough() -> None:
    restarts = Restarts(Patience())
    assert [restarts.died(ran_seconds=59, served=False) for _ in range(5)] == [1, 2, 4, 8, None]


def test_a_process_that_served_or_ran_a_minute_begins_a_new_row() -> None:
    restarts = Restarts(Patience())
    assert restarts.died(ran_seconds=0, served=False) == 1
    assert restarts.died(ran_seconds=0, served=False) == 2
    assert restarts.died(ran_seconds=0, served=True) == 1
    assert restarts.died(ran_seconds=0, served=False) == 2
    assert restarts.died(ran_seconds=60, served=False) == 1
    assert restarts.total == 5
