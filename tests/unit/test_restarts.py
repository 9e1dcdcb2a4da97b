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


def test_a_process_that_worked_for_a_minute_begins_a_new_row() -> None:
    restarts = Restarts(Patience())
    assert [restarts.died(ran_seconds=0, served=False) for _ in range(4)] == [1, 2, 4, 8]
    assert restarts.died(ran_seconds=60, served=False) == 1
    assert [restarts.died(ran_seconds=0, served=False) for _ in range(4)] == [2, 4, 8, None]
    assert restarts.total == 8


def test_an_engine_that_answers_and_soon_dies_is_started_ever_later_and_never_given_up() -> None:
    restarts = Restarts(Patience())
    pauses = [restarts.died(ran_seconds=5, served=True) for _ in range(2000)]
    assert pauses == [1, 2, 4, 8, 16, 32] + [60] * 1994


def test_an_answer_gives_an_engine_all_its_deaths_again_but_no_shorter_pause() -> None:
    restarts = Restarts(Patience())
    assert [restarts.died(ran_seconds=0, served=False) for _ in range(4)] == [1, 2, 4, 8]
    assert restarts.died(ran_seconds=0, served=True) == 16
    assert [restarts.died(ran_seconds=0, served=False) for _ in range(4)] == [32, 60, 60, None]
