"""Which tokens end a text."""

from typing import Any


def end_tokens(model: Any, tokenizer: Any) -> frozenset[int]:
    """The ids that end a text: of the generation config, the model config and the tokenizer."""
    named = [
        getattr(model.generation_config, "eos_token_id", None),
        getattr(model.config, "eos_token_id", None),
        tokenizer.eos_token_id,
    ]
    ids: set[int] = set()
    for value in named:
        ids.update(value if isinstance(value, list) else [] if value is None else [value])
    return frozenset(ids)
