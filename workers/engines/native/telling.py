"""What the loop tells after a step: new tokens in groups, and who is done."""

import time
from collections import defaultdict

import numpy as np

from workers.engines.base import GROUP_SECONDS
from workers.engines.native.batch import ragged
from workers.engines.native.slots import Slots
from workers.engines.native.wire import End, Ids, Logprobs, Progress


class Telling:
    """Collects what happens in a step."""

    def __init__(self, slots: Slots) -> None:
        self._slots = slots
        self._logprobs: dict[int, list[Logprobs]] = defaultdict(list)  # by slot, not told yet
        self.ends: list[End] = []  # not told yet
        self._last: dict[int, Ids] = {}  # by key: what those who are over had not told
        self._last_logprobs: dict[int, Logprobs] = {}

    def end(self, slot: int, end: End) -> None:
        """This slot is over, and may be another's at once."""
        tokens = self._slots.tokens[slot, self._slots.told[slot] : self._slots.length[slot]]
        if tokens.size:
            self._last[end.key] = tokens.copy()
        if slot in self._logprobs:
            self._last_logprobs[end.key] = _joined(self._logprobs.pop(slot))
        self.ends.append(end)

    def end_unseen(self, end: End) -> None:
        """This request is over before it had a slot."""
        self.ends.append(end)

    def logprobs(self, slot: int, logprobs: Logprobs) -> None:
        """Those of one more token of this slot."""
        self._logprobs[slot].append(logprobs)

    def progress(self, running: Ids) -> Progress:
        """What is to be told now of ``running`` (rows,) slots, and of those that are over."""
        slots = self._due(running)
        state = self._slots
        counts = state.known(slots) - state.told[slots]
        groups, offsets = ragged(counts)
        of_token = slots[groups]
        last = list(self._last.values())
        sizes = np.array([len(each) for each in last], np.int32)
        told = Progress(
            keys=np.concatenate([state.keys[slots], np.array(list(self._last), np.int64)]),
            counts=np.concatenate([counts, sizes]),
            tokens=np.concatenate([state.tokens[of_token, state.told[of_token] + offsets], *last]),
            ends=self.ends,
            logprobs=self._told_logprobs(slots),
        )
        state.told[slots] = state.known(slots)
        state.told_at[slots] = time.monotonic()
        self.ends, self._last = [], {}
        return told

    def _due(self, running: Ids) -> Ids:
        state = self._slots
        every = state.every[running]
        fresh = state.known(running) - state.told[running]
        waited = time.monotonic() - state.told_at[running] > GROUP_SECONDS
        return running[(every > 0) & ((fresh >= every) | (waited & (fresh > 0)))]

    def _told_logprobs(self, slots: Ids) -> dict[int, Logprobs]:
        told, self._last_logprobs = self._last_logprobs, {}
        for slot in slots.tolist() if self._logprobs else ():
            if slot in self._logprobs:
                told[int(self._slots.keys[slot])] = _joined(self._logprobs.pop(slot))
        return told


def _joined(parts: list[Logprobs]) -> Logprobs:
    return Logprobs(
        chosen=np.concatenate([part.chosen for part in parts]),
        top_ids=np.concatenate([part.top_ids for part in parts]),
        top=np.concatenate([part.top for part in parts]),
    )
