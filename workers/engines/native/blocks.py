"""Who has which block of KV memory, and which blocks hold the same beginning.

A block has room for the keys and values of ``size`` tokens in every layer. Full blocks are known
by their tokens and everything before them, so requests that begin alike share them; a block that
nobody uses any more keeps its content until its memory is needed (as vLLM's prefix caching does,
Kwon et al. 2023). Content is compared token by token, never by a hash alone.
"""

from collections import OrderedDict
from collections.abc import Sequence

from workers.engines.native.wire import Ids

ROOT = 0  # what stands before a first block; of an adapter, the negative of its number


class Blocks:
    """``count`` blocks, numbered from 0."""

    def __init__(self, count: int, size: int) -> None:
        """``size`` is in tokens."""
        self.count = count
        self.size = size
        self._users = [0] * count
        # Without users, the one unused for longest first.
        self._free: OrderedDict[int, None] = OrderedDict.fromkeys(range(count))
        # What stands before, and the tokens -> the block that holds them, and its own name as
        # something that stands before. Names are never used again, so a block that gets new
        # content takes nothing along.
        self._known: dict[tuple[int, bytes], tuple[int, int]] = {}
        self._content: dict[int, tuple[int, bytes]] = {}
        self._last_name = ROOT

    @property
    def available(self) -> int:
        """How many blocks ``take`` can give."""
        return len(self._free)

    @property
    def used(self) -> int:
        """How many blocks have users."""
        return self.count - len(self._free)

    def in_use(self, block: int) -> bool:
        """Whether this block has users."""
        return self._users[block] > 0

    def blocks_for(self, tokens: int) -> int:
        """How many blocks so many tokens need."""
        return -(-tokens // self.size)

    def take(self, number: int) -> list[int]:
        """So many blocks, whose content is lost; there must be as many available."""
        taken = []
        for _ in range(number):
            block, _ = self._free.popitem(last=False)
            self._forget(block)
            self._users[block] = 1
            taken.append(block)
        return taken

    def release(self, blocks: Sequence[int]) -> None:
        """One user less for each of these, in the order of their tokens."""
        for block in reversed(blocks):  # so the end of a text is forgotten before its beginning
            self._users[block] -= 1
            if not self._users[block]:
                self._free[block] = None

    def find(self, tokens: Ids, adapter: int = 0) -> tuple[list[int], int]:
        """The blocks known to hold the beginning of ``tokens``, and the name of the last.

        ``tokens`` has the shape (tokens,); with an ``adapter`` their keys and values are others.
        The blocks are not taken: see ``share``.
        """
        found: list[int] = []
        name = ROOT - adapter
        for start in range(0, len(tokens) - self.size + 1, self.size):
            known = self._known.get((name, tokens[start : start + self.size].tobytes()))
            if known is None:
                break
            block, name = known
            found.append(block)
        return found, name

    def share(self, blocks: Sequence[int]) -> None:
        """One user more for each of these, which ``find`` has found."""
        for block in blocks:
            if not self._users[block]:
                del self._free[block]
            self._users[block] += 1

    def publish(self, blocks: Sequence[int], tokens: Ids, before: int) -> int:
        """Let others find these full ``blocks``, which hold ``tokens`` behind the name ``before``.

        ``tokens`` has the shape (blocks * size,). Returns the name of the last.
        """
        for index, block in enumerate(blocks):
            key = (before, tokens[index * self.size : (index + 1) * self.size].tobytes())
            if key in self._known:
                before = self._known[key][1]  # another request was first; ours stays unknown
                continue
            self._last_name += 1
            self._known[key] = (block, self._last_name)
            self._content[block] = key
            before = self._last_name
        return before

    def _forget(self, block: int) -> None:
        key = self._content.pop(block, None)
        if key is not None:
            del self._known[key]
