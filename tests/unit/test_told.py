"""What a client of a stream has read, when a job begins again."""

import pytest

from app.api.following import Text
from app.api.openai.streams import Told
from app.errors import StreamInterrupted


def test_a_later_attempt_goes_on_where_the_first_was() -> None:
    told = Told()
    assert told.take(Text(1, 0, "abc")) == "abc"
    assert told.take(Text(2, 0, "ab")) == ""
    assert told.take(Text(2, 2, "cd")) == "d"
    assert told.take(Text(2, 4, "e")) == "e"
    told.check("abcde")


def test_one_that_says_something_else_is_an_interruption() -> None:
    told = Told()
    told.take(Text(1, 0, "abc"))
    with pytest.raises(StreamInterrupted):
        told.take(Text(2, 0, "ax"))


def test_one_that_says_less_is_an_interruption() -> None:
    told = Told()
    told.take(Text(1, 0, "abc"))
    assert told.take(Text(2, 0, "ab")) == ""
    with pytest.raises(StreamInterrupted):
        told.check("ab")
