"""The rows that decode together, with their keys and values, padded on the left.

A row's tokens always end at the last column, so one step appends one column to all of them. The
padding before a short row is masked, and its positions count from its own first token. Windows of
sliding attention are differences of columns, which padding on the left leaves alone; the cache
keeps every column, so the model's own masks stay right.
"""

import inspect
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import DynamicCache

from workers.engines.transformers.row import Row


class Forward:
    """The model's forward pass for padded rows: token ids in, logits of the next token out."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._device = model.get_input_embeddings().weight.device
        self._known = inspect.signature(model.forward).parameters

    def __call__(self, ids: list[list[int]], lengths: list[int], cache: DynamicCache) -> Tensor:
        """Run the new columns ``ids`` (rows, new) behind what ``cache`` holds.

        ``lengths`` counts each row's tokens, the new ones included; what a row has less than the
        widest is padding on its left. Returns logits of the shape (rows, vocabulary), of the
        model's own floating type.
        """
        new = len(ids[0])
        width = cache.get_seq_length() + new
        padding = width - torch.tensor(lengths).unsqueeze(1)
        columns = torch.arange(width)
        inputs = {
            "attention_mask": (columns >= padding).long(),
            "position_ids": (columns[-new:] - padding).clamp(min=0),
            "logits_to_keep": 1,
        }
        outputs = self._model(
            input_ids=torch.tensor(ids, device=self._device),
            past_key_values=cache,
            use_cache=True,
            **{name: self._moved(value) for name, value in inputs.items() if name in self._known},
        )
        logits: Tensor = outputs.logits[:, -1]
        return logits

    def _moved(self, value: Tensor | int) -> Tensor | int:
        return value.to(self._device) if isinstance(value, Tensor) else value


class Batch:
    """Rows of different lengths that take every step together."""

    def __init__(self, forward: Forward) -> None:
        """An empty batch."""
        self._forward = forward
        self._cache = DynamicCache()
        self.rows: list[Row] = []

    def prefill(self, rows: list[Row]) -> Tensor:
        """Fill this empty batch with the prompts of ``rows``; logits (rows, vocabulary)."""
        self.rows = rows
        lengths = [len(row.prompt) for row in rows]
        width = max(lengths)
        ids = [[0] * (width - len(row.prompt)) + row.prompt for row in rows]
        return self._forward(ids, lengths, self._cache)

    def step(self) -> Tensor:
        """Run every row's last token; logits (rows, vocabulary) of the next."""
        ids = [[row.tokens[-1]] for row in self.rows]
        return self._forward(ids, [row.cached + 1 for row in self.rows], self._cache)

    def keep(self, rows: list[Row]) -> None:
        """Drop all but ``rows``, and the columns that only the dropped ones needed."""
        if len(rows) == len(self.rows):
            return
        kept = {id(row) for row in rows}
        index = [place for place, row in enumerate(self.rows) if id(row) in kept]
        self.rows = [self.rows[place] for place in index]
        width = max((row.cached for row in self.rows), default=0)
        self._cache = _selected(self._cache, index, width) if index else DynamicCache()

    def merge(self, other: "Batch") -> None:
        """Take over the rows of ``other``, which has run its prefill."""
        if not other.rows:
            return
        if self.rows:
            self._cache = _joined(self._cache, other._cache)
        else:
            self._cache = other._cache
        self.rows = self.rows + other.rows


def _joined(upper: DynamicCache, lower: DynamicCache) -> DynamicCache:
    """Both caches' rows as one; the narrower is padded with zeros on the left."""
    width = max(upper.get_seq_length(), lower.get_seq_length())

    def join(*parts: Tensor) -> Tensor:
        return torch.cat([pad(part, (0, 0, width - part.shape[2], 0)) for part in parts])

    return DynamicCache(
        [
            (join(above.keys, below.keys), join(above.values, below.values))
            for above, below in zip(upper.layers, lower.layers, strict=True)
        ]
    )


def _selected(cache: DynamicCache, index: list[int], width: int) -> DynamicCache:
    """The rows ``index`` of the cache and its last ``width`` columns."""

    def select(part: Tensor) -> Tensor:
        return part[torch.tensor(index, device=part.device), :, -width:]

    return DynamicCache([(select(layer.keys), select(layer.values)) for layer in cache.layers])
