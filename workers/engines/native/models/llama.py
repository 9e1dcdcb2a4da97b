"""Llama (Touvron et al. 2023), and what is built like it: Mistral, CodeLlama, SmolLM2."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import embedding

from app.errors import UnknownArchitecture
from workers.engines.native.kernels import Attention, Heads, Kernels, LayerCache, Norm
from workers.engines.native.linear import Linear, Make, fused, of_weight

Rotation = tuple[Tensor, Tensor]  # cosines and sines, float32 (positions, dim / 2)

# As transformers names them, and as the kernels do.
ACTIVATIONS = {"silu": "silu", "gelu_pytorch_tanh": "gelu_tanh"}


def activation(config: Any) -> str:
    """The activation of the gates, as the kernels name it; raises UnknownArchitecture."""
    name = getattr(config, "hidden_activation", None) or config.hidden_act
    if name not in ACTIVATIONS:
        raise UnknownArchitecture(f"The native engine has no activation {name}.")
    return ACTIVATIONS[name]


@dataclass(frozen=True, slots=True)
class Layer:
    """One decoder layer; norms after the attention and the gates only where the family has them."""

    attention_norm: Norm
    qkv: Linear
    attention: Attention
    output: Linear
    gate_norm: Norm
    gate_up: Linear
    down: Linear
    after_attention: Norm | None = None
    after_gates: Norm | None = None


class Llama:
    """The forward pass, with the KV memory that ``allocate`` makes."""

    def __init__(
        self, model: Any, kernels: Kernels, *, positions: int, dense: bool, make: Make = of_weight
    ) -> None:
        """``model`` is transformers' own, loaded; its layers are freed one by one.

        ``positions`` is the longest text in tokens; ``dense`` and ``make`` as for ``fused``.
        """
        self.kernels = kernels
        self._config = model.config
        self._activation = activation(model.config)
        self._dense, self._make = dense, make
        inner = model.model
        self._head_size = inner.layers[0].self_attn.head_dim
        weight = model.get_input_embeddings().weight.detach()
        self.device, self.dtype = weight.device, weight.dtype
        self._embedding, self.embeddings = weight, len(weight)
        self._head = of_weight(model.get_output_embeddings().weight.detach(), None)
        self.vocabulary = len(model.get_output_embeddings().weight)
        self._rotations = self._rotary_tables(inner.rotary_emb, positions)
        self.layers: list[Layer] = []
        for index in range(len(inner.layers)):
            self.layers.append(self._layer(inner.layers[index], index))
            inner.layers[index] = torch.nn.Identity()  # frees what the fused weights replace
        self._norm = self._norm_of(inner.norm)
        self._caches: list[LayerCache] = []

    @property
    def heads(self) -> Heads:
        """The shape of attention, the same in all layers."""
        return self.layers[0].attention.heads

    @property
    def block_bytes(self) -> int:
        """Bytes that one block of KV memory takes in all layers."""
        per_token: int = 2 * self.heads.kv_heads * self.heads.dim * self.dtype.itemsize
        return self.kernels.block_size * per_token * len(self.layers)

    def allocate(self, blocks: int) -> None:
        """Make KV memory of so many blocks."""
        kernels = self.kernels
        self._caches = [kernels.cache(blocks, self.heads, self.dtype) for _ in self.layers]

    def forward(self, tokens: Tensor, step: Any, wanted: Tensor | None) -> Tensor:
        """The logits (W, vocabulary) of the ``wanted`` (W,) places among ``tokens`` (T,), None for
        all; ``step`` is what ``kernels.prepare`` made of the batch.
        """
        return self.logits(self.hidden(tokens, step, wanted))

    def hidden(self, tokens: Tensor, step: Any, wanted: Tensor | None) -> Tensor:
        """All of ``forward`` but the head: (W, size).

        It asks the host for nothing, so that it can be captured as a CUDA graph.
        """
        kernels = self.kernels
        residual = self._embedded(tokens)
        delta = None
        for layer, cache in zip(self.layers, self._caches, strict=True):
            x = kernels.add_norm(residual, delta, layer.attention_norm)
            x = kernels.attend(step, layer.qkv(x), attention=layer.attention, cache=cache)
            x = self._normed(layer.output(x), layer.after_attention)
            x = kernels.add_norm(residual, x, layer.gate_norm)
            x = layer.down(kernels.gated(layer.gate_up(x), self._activation))
            delta = self._normed(x, layer.after_gates)
        if wanted is not None:
            residual = residual[wanted]
            delta = None if delta is None else delta[wanted]
        return kernels.add_norm(residual, delta, self._norm)

    def logits(self, hidden: Tensor) -> Tensor:
        """The head: (W, size) to (W, vocabulary)."""
        return self._head(hidden)

    def _normed(self, x: Tensor, norm: Norm | None) -> Tensor:
        return x if norm is None else self.kernels.add_norm(x, None, norm)

    def _embedded(self, tokens: Tensor) -> Tensor:
        return embedding(tokens, self._embedding)

    def _layer(self, layer: Any, index: int) -> Layer:
        attention, mlp = layer.self_attn, layer.mlp
        return Layer(
            attention_norm=self._norm_of(layer.input_layernorm),
            qkv=self._fused(attention.q_proj, attention.k_proj, attention.v_proj),
            attention=self._attention(attention, index),
            output=self._fused(attention.o_proj),
            gate_norm=self._norm_of(layer.post_attention_layernorm),
            gate_up=self._fused(mlp.gate_proj, mlp.up_proj),
            down=self._fused(mlp.down_proj),
        )

    def _fused(self, *modules: Any) -> Linear:
        return fused(*modules, kernels=self.kernels, dense=self._dense, make=self._make)

    def _attention(self, attention: Any, index: int) -> Attention:
        config = self._config
        heads = Heads(
            heads=config.num_attention_heads,
            kv_heads=config.num_key_value_heads,
            dim=attention.head_dim,
            scale=attention.scaling,
        )
        cos, sin = self._rotation(index)
        return Attention(heads, cos, sin, window=self._window(index))

    def _window(self, index: int) -> int:
        """How many tokens a token of this layer sees, 0 for all."""
        window: int = getattr(self._config, "sliding_window", None) or 0
        types = getattr(self._config, "layer_types", None)
        return window if types is None or types[index] == "sliding_attention" else 0

    def _rotation(self, index: int) -> Rotation:
        return self._rotations[""]

    def _rotary_tables(self, rotary: Any, positions: int) -> dict[str, Rotation]:
        """Cosines and sines (positions, dim / 2) by the type of layer; "" where all are alike."""
        return {"": self._table(rotary, positions)}

    def _table(self, rotary: Any, positions: int, *kind: str) -> Rotation:
        places = torch.arange(positions, device=self.device).unsqueeze(0)
        # Rounded to the model's dtype as transformers rounds them.
        like = torch.empty(1, dtype=self.dtype, device=self.device)
        cos, sin = rotary(like, places, *kind)
        if cos.shape[-1] != self._head_size:
            raise UnknownArchitecture("The native engine turns whole heads, and no parts of them.")
        half = cos.shape[-1] // 2
        return cos[0, :, :half].float().contiguous(), sin[0, :, :half].float().contiguous()

    def _norm_of(self, norm: Any) -> Norm:
        return Norm(norm.weight.detach().float().contiguous(), norm.variance_epsilon)
