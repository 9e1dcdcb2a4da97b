"""The requests in the engine, as columns of NumPy arrays: one slot a request.

Arrays instead of objects, because a step touches every request: bookkeeping for 512 of them takes
a tenth of a millisecond so, and ten with an object each.
"""

import time

import numpy as np
from numpy.typing import NDArray

from workers.engines.native.wire import Ids, Job

NEVER = float("inf")
NOBODY = -1  # no request's key


class Slots:
    """``count`` slots; a slot that is taken has its values at its number in every array."""

    def __init__(self, count: int, context: int, *, table_width: int) -> None:
        """``context`` is the most tokens of a request; ``table_width`` its most blocks."""
        self.count = count
        self.keys = np.full(count, NOBODY, np.int64)
        self.tokens = np.zeros((count, context + 1), np.int32)  # of prompt and answer
        self.prompt = np.zeros(count, np.int32)  # tokens of the prompt
        self.length = np.zeros(count, np.int32)  # tokens of prompt and answer, with those expected
        self.expected = np.zeros(count, np.int32)  # of those, chosen but not known here yet
        self.computed = np.zeros(count, np.int32)  # tokens that have keys and values
        self.end = np.zeros(count, np.int32)  # the length at which it is over
        self.every = np.zeros(count, np.int32)  # as Job.every
        self.told = np.zeros(count, np.int32)  # tokens told, prompt included
        self.told_at = np.zeros(count)  # monotonic seconds
        self.deadline = np.full(count, NEVER)  # monotonic seconds
        self.begun = np.zeros(count, bool)  # had a first step
        self.tables = np.zeros((count, table_width), np.int32)
        self.blocks = np.zeros(count, np.int32)  # how many of its table it has
        self.published = np.zeros(count, np.int32)  # how many of those others can find
        self.name = np.zeros(count, np.int64)  # of the last of those, see Blocks
        self.adapter = np.zeros(count, np.int32)  # as Job.adapter
        self._free = list(range(count))[::-1]

    @property
    def free(self) -> int:
        """How many slots nobody has."""
        return len(self._free)

    def take(self, job: Job) -> int:
        """A slot for this request; there must be a free one."""
        slot = self._free.pop()
        size = len(job.prompt)
        self.keys[slot] = job.key
        self.tokens[slot, :size] = job.prompt
        self.prompt[slot] = self.length[slot] = self.told[slot] = size
        self.end[slot] = size + job.limit
        self.every[slot] = job.every
        self.told_at[slot] = time.monotonic()
        self.deadline[slot] = NEVER if job.deadline is None else job.deadline
        self.expected[slot] = self.computed[slot] = self.blocks[slot] = 0
        self.published[slot] = self.name[slot] = 0
        self.adapter[slot] = job.adapter
        self.begun[slot] = False
        return slot

    def give_back(self, slot: int) -> None:
        """Nobody has this slot any more."""
        self.keys[slot] = NOBODY
        self._free.append(slot)

    def table(self, slot: int) -> list[int]:
        """The blocks of a slot, in order."""
        blocks: list[int] = self.tables[slot, : self.blocks[slot]].tolist()
        return blocks

    def add_blocks(self, slot: int, blocks: list[int]) -> None:
        """Append to the table of a slot."""
        have = self.blocks[slot]
        self.tables[slot, have : have + len(blocks)] = blocks
        self.blocks[slot] = have + len(blocks)

    def expect(self, slots: Ids) -> None:
        """One more token for each of these slots, which a step chooses now."""
        self.length[slots] += 1
        self.expected[slots] += 1

    def learn(self, slots: Ids, tokens: Ids) -> None:
        """The first token that each of these slots expects; both of the shape (slots,)."""
        self.tokens[slots, self.known(slots)] = tokens
        self.expected[slots] -= 1

    def known(self, slots: Ids | int) -> Ids:
        """How many tokens of these slots are known here."""
        known: Ids = self.length[slots] - self.expected[slots]
        return known

    def expect_no_more(self, slot: int) -> None:
        """Whatever is chosen for this slot, it will not have it."""
        self.length[slot] -= self.expected[slot]
        self.expected[slot] = 0

    def past_deadline(self, slots: Ids, now: float) -> NDArray[np.int32]:
        """Those of these slots whose time is over."""
        return slots[self.deadline[slots] <= now]
