"""A job that is read along: pieces that come twice, late, or not at all."""

import threading
from uuid import uuid4

import pytest

from app.api.watchers import Watched
from app.jobs.queries import Standing
from app.jobs.states import Status
from app.streams import Piece

JOB = uuid4()


@pytest.fixture
def watched() -> Watched:
    return Watched(JOB)


def piece(text: str, offset: int = 0, attempt: int = 1) -> Piece:
    return Piece(JOB, attempt, offset, text)


def test_pieces_add_up(watched: Watched) -> None:
    assert all(watched.add(each) for each in (piece(""), piece("ab"), piece("cd", 2)))
    assert watched.grown == (1, "abcd")


def test_a_gap_is_seen_until_the_whole_text_comes(watched: Watched) -> None:
    assert watched.add(piece("ab"))
    assert not watched.add(piece("ef", 4))
    assert not watched.add(piece("gh", 6))
    assert watched.grown == (1, "ab")
    assert watched.add(piece("abcdefgh"))
    assert watched.add(piece("ij", 8))
    assert watched.grown == (1, "abcdefghij")


def test_what_was_heard_before_changes_nothing(watched: Watched) -> None:
    for each in (piece("abcd"), piece("ab"), piece("bcde", 1), piece("cd", 2)):
        assert watched.add(each)
    assert watched.grown == (1, "abcde")


def test_a_later_attempt_begins_anew_and_an_earlier_one_is_over(watched: Watched) -> None:
    assert watched.add(piece("abc"))
    assert watched.add(piece("x", attempt=2))
    assert watched.add(piece("def", 3))
    assert watched.grown == (2, "x")
    assert not watched.add(piece("z", 4, attempt=3))


def test_a_job_is_never_seen_to_go_back_in_time(watched: Watched) -> None:
    bell = threading.Event()
    watched.events.add(bell)
    watched.see(Standing(Status.QUEUED, 0))
    watched.add(piece(""))
    assert watched.standing == Standing(Status.RUNNING, 1)
    watched.see(Standing(Status.QUEUED, 0))  # somebody looked before the job was claimed
    assert watched.standing == Standing(Status.RUNNING, 1)
    watched.see(Standing(Status.QUEUED, 1))
    assert watched.standing == Standing(Status.QUEUED, 1)
    assert bell.is_set()
    bell.clear()
    watched.see(Standing(Status.QUEUED, 1))
    assert not bell.is_set()
    watched.see(Standing(Status.FAILED, 1))
    assert (watched.ended, bell.is_set()) == (True, True)
