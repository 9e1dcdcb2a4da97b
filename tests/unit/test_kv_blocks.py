from collections.abc import Sequence

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from workers.engines.native.blocks import ROOT, Blocks
from workers.engines.native.wire import Ids

SIZE = 4


def ids(*tokens: int) -> Ids:
    return np.array(tokens, np.int32)


def written(blocks: Blocks, tokens: Ids, adapter: int = 0) -> list[int]:
    """The blocks of a request that has computed these tokens, shared where they could be."""
    shared, name = blocks.find(tokens, adapter)
    blocks.share(shared)
    own = blocks.take(blocks.blocks_for(len(tokens)) - len(shared))
    full = len(tokens) // SIZE
    behind = tokens[len(shared) * SIZE : full * SIZE]
    blocks.publish(own[: full - len(shared)], behind, name)
    return shared + own


def test_tokens_need_whole_blocks() -> None:
    assert [Blocks(9, SIZE).blocks_for(tokens) for tokens in (1, 4, 5, 8, 9)] == [1, 1, 2, 2, 3]


def test_what_is_released_can_be_taken_again() -> None:
    blocks = Blocks(3, SIZE)
    taken = blocks.take(3)
    assert (blocks.available, blocks.used) == (0, 3)
    blocks.release(taken)
    assert (blocks.available, blocks.used) == (3, 0)
    assert sorted(blocks.take(3)) == sorted(taken)


def test_equal_beginnings_are_shared() -> None:
    blocks = Blocks(9, SIZE)
    first = written(blocks, ids(1, 2, 3, 4, 5, 6, 7, 8, 9))
    second = written(blocks, ids(1, 2, 3, 4, 5, 6, 7, 8, 10))
    assert second[:2] == first[:2]
    assert second[2] != first[2]
    assert blocks.used == 4


def test_the_same_tokens_behind_another_beginning_are_not_shared() -> None:
    blocks = Blocks(9, SIZE)
    written(blocks, ids(1, 2, 3, 4, 5, 6, 7, 8))
    assert blocks.find(ids(9, 9, 9, 9, 5, 6, 7, 8)) == ([], ROOT)


def test_a_shared_block_is_in_use_until_its_last_user_is_gone() -> None:
    blocks = Blocks(2, SIZE)
    first = written(blocks, ids(1, 2, 3, 4))
    second = written(blocks, ids(1, 2, 3, 4))
    blocks.release(first)
    assert blocks.used == 1
    blocks.release(second)
    assert blocks.used == 0


def test_what_nobody_uses_is_found_again() -> None:
    blocks = Blocks(2, SIZE)
    first = written(blocks, ids(1, 2, 3, 4))
    blocks.release(first)
    assert written(blocks, ids(1, 2, 3, 4)) == first


def test_the_same_tokens_with_another_adapter_are_another_content() -> None:
    blocks = Blocks(6, SIZE)
    tokens = ids(1, 2, 3, 4, 5, 6, 7, 8)
    found = [written(blocks, tokens, adapter) for adapter in (0, 1, 2, 0, 1, 2)]
    assert len({block for each in found for block in each}) == 6
    assert found[:3] == found[3:]


def test_content_is_gone_when_its_memory_is_needed_and_ends_go_before_beginnings() -> None:
    blocks = Blocks(3, SIZE)
    tokens = ids(1, 2, 3, 4, 5, 6, 7, 8)
    first = written(blocks, tokens)
    blocks.release(first)
    taken = blocks.take(2)  # one was free, and one more
    assert blocks.find(tokens)[0] == first[:1]
    blocks.release(taken)
    blocks.take(3)
    assert blocks.find(tokens) == ([], ROOT)


def test_what_follows_a_block_that_got_new_content_is_not_found() -> None:
    blocks = Blocks(2, SIZE)
    tokens = ids(1, 2, 3, 4, 5, 6, 7, 8)
    beginning, end = written(blocks, tokens)
    blocks.release([beginning])
    blocks.release(blocks.take(1))  # the beginning is forgotten, its block free
    other = written(blocks, ids(9, 9, 9, 9))
    assert other == [beginning]
    assert blocks.find(ids(9, 9, 9, 9, 5, 6, 7, 8))[0] == other
    assert end not in other


@given(st.lists(st.lists(st.integers(0, 1), min_size=1, max_size=20), max_size=30), st.data())
def test_every_block_returns_and_content_is_always_what_was_asked_for(
    texts: Sequence[Sequence[int]], data: st.DataObject
) -> None:
    blocks = Blocks(24, SIZE)
    content: dict[int, tuple[int, ...]] = {}  # what a request wrote into each block, and before
    running: list[list[int]] = []
    for text in texts:
        tokens = ids(*text)
        while blocks.available < blocks.blocks_for(len(tokens)):
            blocks.release(running.pop(data.draw(st.integers(0, len(running) - 1))))
        for index, block in enumerate(blocks.find(tokens)[0]):
            assert content[block] == tuple(text[: (index + 1) * SIZE])
        held = written(blocks, tokens)
        for index, block in enumerate(held):
            content[block] = tuple(text[: (index + 1) * SIZE])
        running.append(held)
        assert blocks.used == len({block for each in running for block in each})
    for each in running:
        blocks.release(each)
    assert blocks.available == blocks.count
