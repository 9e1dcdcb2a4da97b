"""Pushes tokens down that a request has had already, for many requests at once.

Each slot holds the distinct tokens of its prompt and answer, and how often each was chosen: as many
numbers as a request has tokens, where a count for every token of the vocabulary would be a hundred
times as much to keep and to read. They stay on the device, so a step sends nothing there.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from workers.engines.base import Sampling
from workers.engines.devices import sent
from workers.engines.native.wire import Ids

NARROWEST = 64


class Penalties:
    """The tokens of every slot, and how strongly they are pushed down."""

    def __init__(self, slots: int, vocabulary: int, device: torch.device) -> None:
        """No slot has a token, nor a penalty."""
        self._vocabulary = vocabulary
        self._tokens = torch.zeros((slots, 0), dtype=torch.long, device=device)
        self._chosen = torch.zeros((slots, 0), device=device)
        self._distinct = torch.zeros(slots, dtype=torch.long, device=device)
        # Repetition, presence, frequency.
        self._strengths = torch.tensor([1.0, 0.0, 0.0], device=device).repeat(slots, 1)
        # At most so many distinct tokens: known without asking the device.
        self._most = np.zeros(slots, dtype=np.int64)

    def admit(self, slot: int, sampling: Sampling, prompt: Ids) -> None:
        """A request begins in this slot; ``prompt`` (tokens,) is its ids."""
        tokens = np.unique(prompt)
        # The model may have embeddings for ids that it has no logits for.
        tokens = tokens[tokens < self._vocabulary].astype(np.int64)
        self._widen(len(tokens))
        device = self._tokens.device
        self._tokens[slot, : len(tokens)] = sent(tokens, device)
        self._chosen[slot] = 0
        self._distinct[slot] = self._most[slot] = len(tokens)
        strengths = (
            sampling.repetition_penalty,
            sampling.presence_penalty,
            sampling.frequency_penalty,
        )
        self._strengths[slot] = sent(np.array(strengths, np.float32), device)

    def release(self, slot: int) -> None:
        """Nobody is in this slot."""
        self._distinct[slot] = self._most[slot] = 0

    def apply(self, scores: Tensor, slots: Tensor) -> None:
        """Change the scores in place; a slot without penalties keeps its own.

        ``scores`` float32 (rows, vocabulary), ``slots`` int64 (rows,). Repetition first (CTRL,
        Keskar et al. 2019, section 4.1), then presence and frequency (OpenAI's API reference).
        """
        tokens, chosen = self._tokens[slots], self._chosen[slots]
        repetition, presence, frequency = self._strengths[slots].unsqueeze(1).unbind(-1)
        before = scores.gather(1, tokens)
        after = torch.where(before < 0, before * repetition, before / repetition)
        after = after - presence * (chosen > 0) - frequency * chosen
        # Unused places all name token 0, so changes are added. What is -inf stays so.
        change = torch.where(self._used(slots), after - before, 0).nan_to_num(0)
        scores.scatter_add_(1, tokens, change)

    def count(self, slots: NDArray[np.int64], rows: Tensor, tokens: Tensor) -> None:
        """Note the chosen ``tokens``, int64 (rows,) of which -1 counts as any, of these slots;
        ``rows`` are the same on the device.
        """
        self._widen(int(self._most[slots].max()) + 1)
        self._most[slots] += 1
        tokens = tokens.clamp(min=0)
        same = (self._tokens[rows] == tokens.unsqueeze(-1)) & self._used(rows)
        known = same.any(-1)
        place = torch.where(known, same.int().argmax(-1), self._distinct[rows])
        self._tokens[rows, place] = tokens
        self._chosen[rows, place] += 1
        self._distinct[rows] += ~known

    def _used(self, slots: Tensor) -> Tensor:
        places = torch.arange(self._tokens.shape[1], device=slots.device)
        return places < self._distinct[slots].unsqueeze(-1)

    def _widen(self, wanted: int) -> None:
        """Make room for so many distinct tokens in every slot, doubling, never halving."""
        width = self._tokens.shape[1]
        if min(wanted, self._vocabulary) <= width:
            return
        more = max(NARROWEST, 1 << (wanted - 1).bit_length()) - width
        self._tokens = torch.nn.functional.pad(self._tokens, (0, more))
        self._chosen = torch.nn.functional.pad(self._chosen, (0, more))
