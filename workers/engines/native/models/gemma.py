"""Gemma 1, 2 and 3 (Gemma Team 2024, 2025): scaled embeddings, and norms also behind the layers."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from workers.engines.native.kernels import Attention, Kernels, Norm
from workers.engines.native.models.llama import Layer, Llama, Rotation


class Gemma(Llama):
    """Gemma 2 bounds scores and logits by a tanh; Gemma 3 norms queries and keys instead, and turns
    them by other angles in layers that see a window only.
    """

    def __init__(self, model: Any, kernels: Kernels, **options: Any) -> None:
        """See Llama."""
        super().__init__(model, kernels, **options)
        # In the model's dtype, as transformers scales.
        self._scale = torch.tensor(self._config.hidden_size**0.5).to(self.device, self.dtype)
        self._softcap: float | None = getattr(self._config, "final_logit_softcapping", None)

    def _embedded(self, tokens: Tensor) -> Tensor:
        return super()._embedded(tokens) * self._scale

    def logits(self, hidden: Tensor) -> Tensor:
        """See Llama."""
        logits = super().logits(hidden)
        if self._softcap is None:
            return logits
        return torch.tanh(logits / self._softcap) * self._softcap

    def _layer(self, layer: Any, index: int) -> Layer:
        made = super()._layer(layer, index)
        if not hasattr(layer, "pre_feedforward_layernorm"):
            return made
        return replace(
            made,
            gate_norm=self._norm_of(layer.pre_feedforward_layernorm),
            after_attention=self._norm_of(layer.post_attention_layernorm),
            after_gates=self._norm_of(layer.post_feedforward_layernorm),
        )

    def _attention(self, attention: Any, index: int) -> Attention:
        made = super()._attention(attention, index)
        softcap = getattr(self._config, "attn_logit_softcapping", None) or 0.0
        made = replace(made, heads=replace(made.heads, softcap=softcap))
        if not hasattr(attention, "q_norm"):
            return made
        query, key = self._norm_of(attention.q_norm), self._norm_of(attention.k_norm)
        return replace(made, query_norm=query, key_norm=key)

    def _rotation(self, index: int) -> Rotation:
        types = getattr(self._config, "layer_types", None)
        return self._rotations.get(types[index] if types else "") or self._rotations[""]

    def _rotary_tables(self, rotary: Any, positions: int) -> dict[str, Rotation]:
        if self._config.model_type != "gemma3_text":
            return super()._rotary_tables(rotary, positions)
        kinds = sorted(set(self._config.layer_types))
        return {kind: self._table(rotary, positions, kind) for kind in kinds}

    def _norm_of(self, norm: Any) -> Norm:
        weight = 1 + norm.weight.detach().float()
        return Norm(weight.contiguous(), norm.eps, plain=False)
