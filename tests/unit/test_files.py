"""Files in chunks: where pieces go, and where lines are."""

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.files import reading, storing
from app.files.reading import Reader

CHUNK = 7
DATA = st.binary(max_size=60).map(lambda data: data.replace(b"a", b"\n"))


@pytest.fixture(scope="module", autouse=True)
def small_chunks() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading, "CHUNK_BYTES", CHUNK)
        patch.setattr(storing, "CHUNK_BYTES", CHUNK)
        yield


class Stored:
    """A session that knows the chunks of one file."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.asked = 0

    def scalar(self, _: Any, which: dict[str, Any]) -> bytes | None:
        self.asked += 1
        at = which["chunk"] * CHUNK
        return self._data[at : at + CHUNK] or None


def reader(data: bytes, longest: int = 1000) -> Reader:
    return Reader(Stored(data), None, longest_line=longest)  # type: ignore[arg-type]


@given(st.lists(st.binary(min_size=1, max_size=30)))
def test_pieces_fill_chunk_after_chunk(written: list[bytes]) -> None:
    chunks: dict[int, bytes] = {}
    size = 0
    for data in written:
        for number, piece in storing._pieces(size, data):
            chunks[number] = chunks.get(number, b"") + piece
        size += len(data)
    assert b"".join(chunks[number] for number in sorted(chunks)) == b"".join(written)
    assert sorted(chunks) == list(range(len(chunks)))
    assert {len(chunks[number]) for number in sorted(chunks)[:-1]} <= {CHUNK}


@given(DATA, st.integers(0, 70), st.integers(0, 70))
def test_any_range_can_be_read(data: bytes, offset: int, size: int) -> None:
    assert reader(data).read(offset, size) == data[offset : offset + size]


@given(DATA)
def test_lines_are_those_between_line_feeds(data: bytes) -> None:
    lines = list(reader(data).lines(0))
    assert [line.text for line in lines] == [
        each + b"\n" if number < data.count(b"\n") else each
        for number, each in enumerate(data.split(b"\n"))
        if each or number < data.count(b"\n")
    ]
    assert b"".join(data[line.offset : line.end] for line in lines) == data


@given(DATA, st.data())
def test_reading_goes_on_where_any_line_began(data: bytes, drawn: st.DataObject) -> None:
    lines = list(reader(data).lines(0))
    start = drawn.draw(st.integers(0, len(lines)))
    offset = lines[start].offset if start < len(lines) else len(data)
    assert list(reader(data).lines(offset)) == lines[start:]


def test_a_line_that_is_too_long_is_passed_over_without_being_kept() -> None:
    data = b"a\n" + b"b" * 50 + b"\nc\n"
    assert [line.text for line in reader(data, longest=20).lines(0)] == [b"a\n", None, b"c\n"]


def test_a_chunk_is_loaded_once_for_all_its_lines() -> None:
    stored = Stored(b"ab\n" * 14)
    found = Reader(stored, None, longest_line=9)  # type: ignore[arg-type]
    assert len(list(found.lines(0))) == 14
    assert stored.asked <= 14 * 3 // CHUNK + 2
