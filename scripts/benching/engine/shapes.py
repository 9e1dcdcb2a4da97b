"""The shapes of the large models, and what bounds their decoding on the device."""

from dataclasses import dataclass
from typing import Any

# One NVIDIA H200: bytes per second from memory, and bfloat16 operations per second.
BANDWIDTH = 4.8e12
OPERATIONS = 790e12
BITS = 4
GROUP_SIZE = 128
SCALE_BITS = 16


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A decoder with grouped-query attention, by the names of its transformers configuration."""

    model_type: str
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    vocab_size: int
    tie_word_embeddings: bool

    def config(self) -> dict[str, Any]:
        """Its config.json, as far as it is the same for both kinds of weights."""
        return {**self.__dict__, "max_position_embeddings": 4096}

    @property
    def layer_weights(self) -> int:
        """Weights of the linear layers, all of which each step reads: those that GPTQ packs."""
        heads = self.num_attention_heads + self.num_key_value_heads
        attention = 2 * self.hidden_size * heads * self.head_dim
        return self.num_hidden_layers * (attention + 3 * self.hidden_size * self.intermediate_size)

    @property
    def head_weights(self) -> int:
        """Weights of the last layer, which stay in 16 bit."""
        return self.hidden_size * self.vocab_size

    @property
    def token_bytes(self) -> int:
        """Keys and values of one token, in 16 bit."""
        return 4 * self.num_hidden_layers * self.num_key_value_heads * self.head_dim

    def roofline(self, *, batch: int, context: int, quantized: bool) -> float:
        """Tokens per second that memory or arithmetic allow (Williams et al. 2009).

        A step reads all weights once and the keys and values of ``batch`` requests with
        ``context`` tokens each; every token takes two operations per weight, and four per channel
        of each head and cached token.
        """
        bits = BITS + SCALE_BITS / GROUP_SIZE if quantized else 16
        weights = self.layer_weights * bits / 8 + self.head_weights * 2
        seconds = (weights + batch * context * self.token_bytes) / BANDWIDTH
        width = self.num_attention_heads * self.head_dim
        attention = 4 * self.num_hidden_layers * width * context
        operations = 2 * (self.layer_weights + self.head_weights) + attention
        return batch / max(seconds, batch * operations / OPERATIONS)


SHAPES = {
    "1.5b": Shape(  # Qwen2.5-1.5B
        model_type="qwen2",
        hidden_size=1536,
        intermediate_size=8960,
        num_hidden_layers=28,
        num_attention_heads=12,
        num_key_value_heads=2,
        head_dim=128,
        vocab_size=151936,
        tie_word_embeddings=True,
    ),
    "8b": Shape(  # Llama-3.1-8B
        model_type="llama",
        hidden_size=4096,
        intermediate_size=14336,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=8,
        head_dim=128,
        vocab_size=128256,
        tie_word_embeddings=False,
    ),
}
