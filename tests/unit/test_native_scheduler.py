import numpy as np
import pytest

from workers.engines.base import Sampling
from workers.engines.native.batch import Batch, ragged
from workers.engines.native.blocks import Blocks
from workers.engines.native.scheduler import Scheduler
from workers.engines.native.slots import Slots
from workers.engines.native.wire import Job

SIZE = 4


def scheduler(*, slots: int = 4, blocks: int = 64, budget: int = 16) -> Scheduler:
    return Scheduler(Slots(slots, 64, table_width=16), Blocks(blocks, SIZE), budget=budget)


def wait(made: Scheduler, *sizes: int, same: bool = False) -> None:
    """Queue prompts of these sizes, of different tokens unless ``same``; keys count from 1."""
    for size in sizes:
        key = len(made.waiting) + max(int(made.slots.keys.max()), 0) + 1
        prompt = np.full(size, 7 if same else 100 + key, np.int32)
        made.waiting[key] = Job(key=key, prompt=prompt, limit=20, sampling=Sampling())


def step(made: Scheduler) -> Batch:
    """Take a step in which every row that is complete gets a token."""
    batch, _ = made.schedule()
    assert batch is not None
    made.computed(batch)
    made.slots.expect(batch.wanted_slots)
    made.slots.learn(batch.wanted_slots, batch.wanted_slots)
    return batch


def shares(made: Scheduler, batch: Batch) -> dict[int, int]:
    """How many new tokens each request has in a batch, by key."""
    counts = np.diff(batch.starts).tolist()
    return dict(zip(made.slots.keys[batch.slots].tolist(), counts, strict=True))


def test_groups_laid_end_to_end_know_their_places() -> None:
    groups, places = ragged(np.array([2, 0, 3], np.int32))
    assert groups.tolist() == [0, 0, 2, 2, 2]
    assert places.tolist() == [0, 1, 0, 1, 2]


def test_a_step_takes_whole_prompts_and_then_one_token_of_each() -> None:
    made = scheduler()
    wait(made, 3, 5)
    assert shares(made, step(made)) == {1: 3, 2: 5}
    assert shares(made, step(made)) == {1: 1, 2: 1}


def test_a_long_prompt_runs_in_chunks_beside_those_that_decode() -> None:
    made = scheduler(budget=10)
    wait(made, 2)
    step(made)
    wait(made, 25)
    batches = [step(made) for _ in range(4)]
    assert [shares(made, batch) for batch in batches] == [
        {1: 1, 2: 9},
        {1: 1, 2: 9},
        {1: 1, 2: 7},
        {1: 1, 2: 1},
    ]
    assert [batch.wanted_slots.size for batch in batches] == [1, 1, 2, 2]


def test_prompts_go_on_however_many_rows_decode() -> None:
    made = scheduler(slots=5, budget=2)
    wait(made, 1, 1, 1, 1)
    for _ in range(3):
        step(made)
    wait(made, 8)
    assert shares(made, step(made))[5] == 1


def test_a_batch_says_where_everything_is() -> None:
    made = scheduler()
    wait(made, 6, 3)
    batch = step(made)
    assert batch.tokens.tolist() == [101] * 6 + [102] * 3
    assert batch.positions.tolist() == [0, 1, 2, 3, 4, 5, 0, 1, 2]
    assert batch.starts.tolist() == [0, 6, 9]
    assert batch.lengths.tolist() == [6, 3]
    assert batch.wanted.tolist() == [5, 8]
    assert batch.longest == 6
    blocks, offsets = batch.places // SIZE, batch.places % SIZE
    assert offsets.tolist() == [0, 1, 2, 3, 0, 1, 0, 1, 2]
    assert blocks[:6].tolist() == [batch.tables[0, 0]] * 4 + [batch.tables[0, 1]] * 2
    assert blocks[6:].tolist() == [batch.tables[1, 0]] * 3


def test_nobody_overtakes_a_request_that_does_not_fit_yet() -> None:
    made = scheduler(blocks=5)
    wait(made, 10, 10, 1)
    assert shares(made, step(made)) == {1: 10}
    made.leave(int(made.running[0]))
    assert shares(made, step(made)) == {2: 10, 3: 1}


def test_the_youngest_pauses_when_memory_runs_short_and_computes_again_later() -> None:
    made = scheduler(blocks=5)
    wait(made, 7, 3)
    step(made)
    while not made.preemptions:
        batch = step(made)
    assert shares(made, batch) == {1: 1}
    paused = made.paused[0]
    told = int(made.slots.length[paused])
    assert made.slots.computed[paused] == 0
    made.leave(int(made.running[0]))
    again = step(made)
    # What it had is computed in one go, but for what is still in memory.
    assert made.slots.length[paused] == told + 1
    assert shares(made, again)[2] in (told, told - SIZE)


def test_paused_ones_come_before_those_that_wait() -> None:
    made = scheduler(blocks=5)
    wait(made, 7, 3)
    step(made)
    while not made.preemptions:
        step(made)
    wait(made, 1)
    step(made)
    assert 3 in made.waiting
    made.leave(int(made.running[0]))
    step(made)
    assert not made.waiting


def test_equal_beginnings_are_computed_once() -> None:
    made = scheduler()
    wait(made, 10, same=True)
    step(made)
    wait(made, 10, same=True)
    # All but the whole blocks before the last token.
    assert shares(made, step(made)) == {1: 1, 2: 2}
    assert made.blocks.used == 4


def test_a_prompt_that_is_known_entirely_still_computes_its_last_token() -> None:
    made = scheduler()
    wait(made, 8, same=True)
    step(made)
    wait(made, 8, same=True)
    batch = step(made)
    assert shares(made, batch)[2] == SIZE
    assert batch.wanted_slots.size == 2


@pytest.mark.parametrize("paused", [False, True])
def test_whoever_leaves_gives_everything_back(paused: bool) -> None:
    made = scheduler(blocks=5)
    wait(made, 7, 3)
    step(made)
    while not made.preemptions:
        step(made)
    slots = [made.paused[0], int(made.running[0])]
    for slot in slots if paused else slots[::-1]:
        made.leave(slot)
    assert made.blocks.available == 5
    assert made.slots.free == 4
    assert not made.running.size
    assert not made.paused
    assert made.schedule() == (None, [])
