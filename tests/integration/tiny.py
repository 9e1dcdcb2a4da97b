"""Tiny models with random weights, and a tokenizer to go with them; nothing is downloaded."""

from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GemmaConfig,
    GemmaForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PhiConfig,
    PhiForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

PANGRAM = "the quick brown fox jumps over the lazy dog. hello world, how are you? "
CHAT_TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system role') }}"
    "{% endif %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant: "
)


def tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE with the end-of-text token 0 and a template that refuses system messages."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<end>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    inner.train_from_iterator([PANGRAM] * 3, trainer)
    outer = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<end>")
    outer.chat_template = CHAT_TEMPLATE
    return outer


def llama(**more: Any) -> Any:
    """Full attention."""
    return _made(LlamaForCausalLM, LlamaConfig(**{**_shape(), **more}))


def mistral() -> Any:
    """Attention in a sliding window, shorter than the prompts."""
    return _made(MistralForCausalLM, MistralConfig(**_shape(), sliding_window=8))


def qwen2() -> Any:
    """Biases."""
    model = _made(Qwen2ForCausalLM, Qwen2Config(**_shape()))
    for layer in model.model.layers:
        torch.nn.init.normal_(layer.self_attn.q_proj.bias)
    return model


def qwen3() -> Any:
    """Norms of queries and keys."""
    return _made(Qwen3ForCausalLM, Qwen3Config(**_shape(), head_dim=16))


def gemma() -> Any:
    """Scaled embeddings, another activation."""
    return _made(GemmaForCausalLM, GemmaConfig(**_shape(), head_dim=16))


def gemma2() -> Any:
    """Scores and logits bounded by a tanh."""
    config = Gemma2Config(**_shape(), head_dim=16, sliding_window=8, attn_logit_softcapping=4.0)
    return _made(Gemma2ForCausalLM, config)


def gemma3() -> Any:
    """Layers of both kinds."""
    config = Gemma3TextConfig(
        **_shape(),
        head_dim=16,
        sliding_window=8,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
        tie_word_embeddings=False,
    )
    return _made(Gemma3ForCausalLM, config)


def phi() -> Any:
    """An architecture that the native engine does not know."""
    return _made(PhiForCausalLM, PhiConfig(**_shape()))


def _made(kind: Any, config: Any) -> Any:
    torch.manual_seed(0)
    return kind(config).eval()


def _shape() -> dict[str, Any]:
    return {
        "vocab_size": len(tokenizer()),
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        # Large weights make texts that wander instead of repeating one token.
        "initializer_range": 0.5,
        "bos_token_id": None,
        "eos_token_id": 0,
    }
