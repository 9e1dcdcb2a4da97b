"""Who may run beside whom after an engine died."""

import pytest

from workers.suspects import Suspects


@pytest.mark.parametrize(
    ("slots", "max_attempts", "losses", "together"),
    [(16, 3, 1, 4), (16, 3, 2, 1), (1, 3, 1, 1), (8, 2, 1, 1), (27, 4, 1, 9), (27, 4, 2, 3)],
)
def test_the_more_often_jobs_were_lost_the_fewer_of_them_run_together(
    slots: int, max_attempts: int, losses: int, together: int
) -> None:
    suspects = Suspects(slots=slots, max_attempts=max_attempts)
    entered = [suspects.enter(losses) for _ in range(together + 2)]
    assert entered == [True] * together + [False] * 2
    suspects.leave(losses)
    assert [suspects.enter(losses) for _ in range(2)] == [True, False]


def test_new_jobs_run_whoever_else_does() -> None:
    suspects = Suspects(slots=4, max_attempts=3)
    assert suspects.enter(2)
    assert all(suspects.enter(0) for _ in range(9))
    assert suspects.leave(0) == 0
    assert not suspects.wanted


def test_while_there_is_room_they_are_wanted() -> None:
    suspects = Suspects(slots=16, max_attempts=3)
    wanted = []
    for _ in range(4):
        wanted.append(suspects.wanted)
        suspects.enter(1)
    assert wanted == [True] * 4
    assert not suspects.wanted


def test_nobody_overtakes_a_job_on_its_last_attempt() -> None:
    suspects = Suspects(slots=16, max_attempts=3)
    assert suspects.enter(1)
    assert suspects.wanted
    assert not suspects.enter(2)
    assert not suspects.wanted
    suspects.leave(1)
    assert suspects.wanted
    assert suspects.enter(2)


def test_who_leaves_calls_as_many_of_those_that_were_refused_as_there_is_room_for() -> None:
    suspects = Suspects(slots=16, max_attempts=3)
    assert suspects.enter(2)
    assert not any(suspects.enter(1) for _ in range(6))
    assert suspects.leave(2) == 4
    assert all(suspects.enter(1) for _ in range(4))
    assert [suspects.leave(1) for _ in range(4)] == [1, 1, 0, 0]
