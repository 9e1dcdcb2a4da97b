"""Answers that follow a JSON schema: the grammar of each row of the loop that has one.

A grammar is compiled by a thread while its request waits, so no step waits for it, and copied for
each request. It belongs to a slot until the request leaves it, so a preemption changes nothing.
"""

from collections import OrderedDict
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from app.errors import EngineFailed, GPTQueueError, InvalidRequest
from workers.engines.base import CANNOT_CONSTRAIN
from workers.engines.grammar import Bits, Grammar, Grammars
from workers.engines.native.wire import Ids

# Compiled schemas that are kept: many requests of one customer have the same.
KEPT = 32
# How long a loop without anything to run waits for a grammar before it looks for cancels.
PAUSE_SECONDS = 0.005


class Constraints:
    """The schemas of those that wait, by key, and of those that run, by slot; one thread asks."""

    def __init__(self, grammars: Grammars | None) -> None:
        """``grammars`` None: no request of this model can have a schema."""
        self._grammars = grammars
        self._compiler = ThreadPoolExecutor(1, thread_name_prefix="schema-compiler")
        self._compiled: OrderedDict[str, Future[Grammar]] = OrderedDict()
        self._compiling: dict[int, Future[Grammar]] = {}  # by key
        self._ready: dict[int, Grammar] = {}  # by key
        self._rows: dict[int, Grammar] = {}  # by slot

    @property
    def active(self) -> bool:
        """Whether anybody who runs has a schema."""
        return bool(self._rows)

    def prepare(self, key: int, schema: str) -> None:
        """Compile the schema of a request that waits; ``prepared`` tells when it is done."""
        if schema not in self._compiled:
            self._compiled[schema] = self._compiler.submit(self._compile, schema)
            if len(self._compiled) > KEPT:
                self._compiled.popitem(last=False)
        self._compiled.move_to_end(schema)
        self._compiling[key] = self._compiled[schema]

    def prepared(self) -> Iterator[tuple[int, str | None]]:
        """Whose grammars are ready since the last time, by key; or why there will be none."""
        for key, compiled in list(self._compiling.items()):
            if not compiled.done():
                continue
            del self._compiling[key]
            try:
                self._ready[key] = compiled.result().copy()
                yield key, None
            except GPTQueueError as error:
                yield key, error.message

    def pause(self) -> None:
        """Nobody runs: rather than asking again and again, wait a moment for a grammar."""
        if self._compiling:
            wait(self._compiling.values(), PAUSE_SECONDS, return_when=FIRST_COMPLETED)

    def forget(self, key: int) -> None:
        """This request is over before it had a slot."""
        self._compiling.pop(key, None)
        self._ready.pop(key, None)

    def admit(self, slot: int, key: int) -> None:
        """This request begins in this slot; if it has a schema, its grammar is ready."""
        if key in self._ready:
            self._rows[slot] = self._ready.pop(key)

    def release(self, slot: int) -> None:
        """The request in this slot is over."""
        self._rows.pop(slot, None)

    def apply(self, logits: Tensor, slots: Ids) -> Tensor:
        """The logits (rows, vocabulary) of ``slots`` (rows,), minus infinity for tokens that a
        schema forbids. The given ones are left as they are, and so is who has no schema.
        """
        constrained = [row for row, slot in enumerate(slots.tolist()) if slot in self._rows]
        if not constrained:
            return logits
        assert self._grammars is not None
        mask = self._grammars.mask([self._rows[slot] for slot in slots[constrained].tolist()])
        rows = torch.tensor(constrained, device=logits.device)
        allowed = logits[rows]
        forbid(allowed, mask)
        return logits.index_copy(0, rows, allowed)

    def accept(self, slots: Ids, tokens: Ids) -> tuple[NDArray[np.bool_], dict[int, str]]:
        """Go on behind a token in each of ``slots``, both (rows,).

        Which answers are whole, (rows,), and by slot why one cannot go on.
        """
        whole, failed = np.zeros(len(slots), bool), dict[int, str]()
        for row, slot in enumerate(slots.tolist() if self._rows else ()):
            if slot in self._rows:
                try:
                    self._rows[slot].accept(int(tokens[row]))
                    whole[row] = self._rows[slot].done
                except EngineFailed as error:
                    failed[slot] = error.message
        return whole, failed

    def _compile(self, schema: str) -> Grammar:
        if self._grammars is None:
            raise InvalidRequest(CANNOT_CONSTRAIN)
        return self._grammars.compile(schema)


def forbid(logits: Tensor, mask: Bits) -> None:
    """Set the logits, shape (rows, vocabulary), of tokens outside the mask to minus infinity.

    ``mask`` is that of Grammars.mask.
    """
    # NumPy spreads bits over bytes in a thirtieth of the time that shifts in PyTorch take.
    bits = np.unpackbits(~mask.view(np.uint8), axis=-1, bitorder="little").view(np.bool_)
    forbidden = torch.from_numpy(bits[:, : logits.shape[1]])
    logits.masked_fill_(forbidden.to(logits.device), -torch.inf)
