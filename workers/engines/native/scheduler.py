"""Which rows take the next step, and with how many tokens: continuous batching.

Iteration-level scheduling after Orca (Yu et al. 2022), blocks of KV memory after PagedAttention
(Kwon et al. 2023), prompts in chunks beside the rows that decode after Sarathi (Agrawal et al.
2024).
"""

from collections import OrderedDict, deque

import numpy as np

from workers.engines.native.batch import Batch, ragged
from workers.engines.native.blocks import Blocks
from workers.engines.native.slots import Slots
from workers.engines.native.wire import Ids, Job

# After so many steps that had memory, they may be twice as large again.
CALM_STEPS = 1000

_NOBODY = np.zeros(0, np.int32)


class Scheduler:
    """Requests wait, run, and pause when memory runs short; the oldest come first."""

    def __init__(self, slots: Slots, blocks: Blocks, *, budget: int) -> None:
        """``budget`` is the most new tokens of a step, unless more rows than that decode."""
        self.slots = slots
        self.blocks = blocks
        self.budget = budget
        self.most_rows = slots.count  # that run at a time
        self._wanted = budget
        self._calm = 0
        self.waiting: OrderedDict[int, Job] = OrderedDict()  # by key
        self.held: set[int] = set()  # keys of those among them that cannot begin yet
        self.running: Ids = _NOBODY  # slots, in the order of their arrival
        self.paused: deque[int] = deque()  # slots whose blocks were taken from them
        self.preemptions = 0

    def schedule(self) -> tuple[Batch | None, list[tuple[int, Job]]]:
        """The next step, None when nobody can go on; and who was let in, with slots."""
        admitted = self._admit()
        counts = self._grow()
        rows = np.flatnonzero(counts)
        if not rows.size:
            return None, admitted
        # Side by side by adapter, so that each has one range of the step's tokens.
        rows = rows[np.argsort(self.slots.adapter[self.running[rows]], kind="stable")]
        return self._batch(self.running[rows], counts[rows]), admitted

    def computed(self, batch: Batch) -> None:
        """The pass is done: its tokens have keys and values now, which others may share."""
        slots = self.slots
        slots.computed[batch.slots] = batch.lengths
        unpublished = slots.published[batch.slots] + 1
        # Of a prompt only: the blocks of an answer are offered when it has ended, all at once.
        full = np.minimum(batch.lengths, slots.prompt[batch.slots]) // self.blocks.size
        for slot in batch.slots[full >= unpublished].tolist():
            self._publish(slot, int(slots.prompt[slot]))

    def leave(self, slot: int) -> None:
        """This one is over, running or paused; its blocks and the slot are free at once."""
        self.running = self.running[self.running != slot]
        if slot in self.paused:
            self.paused.remove(slot)
        self._publish(slot, int(self.slots.length[slot]))
        self.blocks.release(self.slots.table(slot))
        self.slots.give_back(slot)

    def preempt(self, slot: int) -> None:
        """Take a slot's blocks; what it had computed will be computed again."""
        self.running = self.running[self.running != slot]
        self.blocks.release(self.slots.table(slot))
        self.slots.blocks[slot] = self.slots.computed[slot] = 0
        self.slots.published[slot] = self.slots.name[slot] = 0
        self.paused.appendleft(slot)
        self.preemptions += 1

    def lacked_room(self, batch: Batch) -> None:
        """There was no memory for this step, of more than one token: the next are half as large."""
        rows, tokens = len(batch.slots), len(batch.tokens)
        self._calm = 0
        self.budget = tokens // 2
        if tokens == rows:
            self.most_rows = rows // 2
            for slot in self.running[rows // 2 :][::-1].tolist():
                self.preempt(slot)

    def had_room(self) -> None:
        """There was memory for a step; what was short of it may have gone."""
        self._calm += 1
        if self._calm == CALM_STEPS:
            self._calm = 0
            self.budget = min(2 * self.budget, self._wanted)
            self.most_rows = min(2 * self.most_rows, self.slots.count)

    def _admit(self) -> list[tuple[int, Job]]:
        """Let in who fits, paused ones first; nobody overtakes, but those who are held."""
        admitted = []
        while self.paused and self._has_room() and self._place(self.paused[0]):
            self._run(self.paused.popleft())
        while not self.paused and self.slots.free and self._has_room():
            job = next((each for key, each in self.waiting.items() if key not in self.held), None)
            if job is None:
                break
            slot = self.slots.take(job)
            if not self._place(slot):
                self.slots.give_back(slot)
                break
            del self.waiting[job.key]
            self._run(slot)
            admitted.append((slot, job))
        return admitted

    def _has_room(self) -> bool:
        return len(self.running) < self.most_rows

    def _run(self, slot: int) -> None:
        self.running = np.append(self.running, np.int32(slot))

    def _place(self, slot: int) -> bool:
        """Give a slot the blocks that its tokens need, if they are there."""
        length = int(self.slots.length[slot])
        # The last token is always computed: its logits are what is wanted.
        beginning = self.slots.tokens[slot, : length - 1]
        shared, name = self.blocks.find(beginning, int(self.slots.adapter[slot]))
        needed = self.blocks.blocks_for(length) - len(shared)
        reviving = sum(not self.blocks.in_use(block) for block in shared)
        # Who runs already will need more soon; without this they would be preempted at once.
        spare = len(self.running)
        if needed + reviving + spare > self.blocks.available:
            return False
        self.blocks.share(shared)
        self.slots.add_blocks(slot, shared + self.blocks.take(needed))
        self.slots.computed[slot] = len(shared) * self.blocks.size
        self.slots.published[slot] = len(shared)
        self.slots.name[slot] = name
        return True

    def _grow(self) -> Ids:
        """How many new tokens each running row has in this step (rows,), blocks provided."""
        while True:
            slots = self.running
            counts = self._share_of_budget(slots)
            ends = self.slots.computed[slots] + counts
            lacking = -(-ends // self.blocks.size) - self.slots.blocks[slots]
            needy = np.flatnonzero(lacking > 0)
            if lacking[needy].sum() <= self.blocks.available:
                break
            self.preempt(int(slots[-1]))
        for row in needy.tolist():
            self.slots.add_blocks(int(slots[row]), self.blocks.take(int(lacking[row])))
        return counts

    def _share_of_budget(self, slots: Ids) -> Ids:
        """Every row that decodes has its token; the prompts share what is left, in order."""
        state = self.slots
        # Who has all its tokens only waits for the last of them to be known.
        going = state.length[slots] < state.end[slots]
        missing = np.where(going, state.length[slots] - state.computed[slots], 0)
        prompts = np.where(missing > 1, missing, 0)
        # However many decode, prompts go on.
        left = max(self.budget - int((missing == 1).sum()), 1)
        before = np.cumsum(prompts) - prompts
        return np.where(prompts, np.clip(left - before, 0, missing), missing).astype(np.int32)

    def _batch(self, slots: Ids, counts: Ids) -> Batch:
        state = self.slots
        rows, offsets = ragged(counts)
        starts = np.zeros(len(slots) + 1, np.int32)
        np.cumsum(counts, out=starts[1:])
        of_token = slots[rows]
        positions = state.computed[of_token] + offsets
        size = self.blocks.size
        lengths = state.computed[slots] + counts
        complete = lengths == state.length[slots]
        ahead = complete & (state.expected[slots] > 0)
        return Batch(
            slots=slots,
            adapters=state.adapter[slots],
            tokens=state.tokens[of_token, positions],
            positions=positions,
            places=state.tables[of_token, positions // size] * size + positions % size,
            starts=starts,
            lengths=lengths,
            tables=state.tables[slots, : -(-int(lengths.max()) // size)],
            wanted=starts[1:][complete] - 1,
            wanted_slots=slots[complete],
            ahead=starts[1:][ahead] - 1,
            ahead_slots=slots[ahead],
        )

    def _publish(self, slot: int, length: int) -> None:
        """Let others find the full blocks among the first ``length`` tokens that are computed."""
        size = self.blocks.size
        first = int(self.slots.published[slot])
        last = min(length, int(self.slots.computed[slot])) // size
        if last <= first:
            return
        tokens = self.slots.tokens[slot, first * size : last * size]
        blocks = self.slots.tables[slot, first:last].tolist()
        self.slots.name[slot] = self.blocks.publish(blocks, tokens, int(self.slots.name[slot]))
        self.slots.published[slot] = last
