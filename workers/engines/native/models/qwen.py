"""Qwen 2 and 3 (Yang et al. 2024, 2025): Llama with biases, or with norms of queries and keys."""

from dataclasses import replace
from typing import Any

from workers.engines.native.kernels import Attention
from workers.engines.native.models.llama import Llama


class Qwen(Llama):
    """Qwen 2 adds a bias to queries, keys and values, which their modules bring along; Qwen 3 norms
    each head of queries and keys instead.
    """

    def _attention(self, attention: Any, index: int) -> Attention:
        made = super()._attention(attention, index)
        if not hasattr(attention, "q_norm"):
            return made
        return replace(
            made,
            query_norm=self._norm_of(attention.q_norm),
            key_norm=self._norm_of(attention.k_norm),
        )
