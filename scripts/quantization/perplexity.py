"""How well a model predicts text."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch


def perplexity(
    model: Any, tokenizer: Any, *, passages: Sequence[str], advance: Callable[[], None]
) -> float:
    """The exponential of the mean negative log-likelihood of a token given those before it.

    Every passage stands alone; its first token is not predicted. ``advance`` is called after
    each passage. Lower is better, 1 is perfect.
    """
    loss, count = 0.0, 0
    for passage in passages:
        ids = torch.tensor([tokenizer(passage).input_ids], device=model.device)
        with torch.inference_mode():
            logits = model(input_ids=ids).logits[0, :-1].float()
        loss += torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="sum").item()
        count += ids.shape[1] - 1
        advance()
    return math.exp(loss / count)
