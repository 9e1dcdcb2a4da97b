"""Contestant: transformers' ``generate``, on one padded batch after the other.

It is what people write first: take all that wait, pad them to one length, decode until the last is
done, and only then look who has come in the meantime. With one request at a time it is plain
``generate``.
"""

import time
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig

from app.catalog import Version
from app.errors import ModelLoadFailed
from scripts.benching.engine.work import Answer, Failed, Work
from workers.engines.transformers import loading

PADDING = 0


def loaded(folder: Path, device: str) -> tuple[Any, Any]:
    """Model and tokenizer as the transformers engine loads them; raises Failed."""
    try:
        return loading.load(Version(source=str(folder)), models_dir=folder, device=device)
    except ModelLoadFailed as error:
        raise Failed(error.message) from error


class Static:
    """A model that is loaded."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self._model, self._tokenizer = model, tokenizer

    def ask(self, work: Work) -> list[Answer]:
        """Batches of those that have arrived, ``in_flight`` at most."""
        answers: list[Answer] = []
        started = time.monotonic()
        while len(answers) < len(work.prompts):
            done = len(answers)
            time.sleep(max(0.0, work.arrivals[done] - (time.monotonic() - started)))
            now = time.monotonic() - started
            arrived = [each for each in work.arrivals[done : done + work.in_flight] if each <= now]
            count = max(1, len(arrived))
            tokens = self._generate(work.prompts[done : done + count], work.tokens)
            ended = time.monotonic() - started
            answers += [
                Answer(sent=arrival, ended=ended, tokens=tokens)
                for arrival in work.arrivals[done : done + count]
            ]
        return answers

    def close(self) -> None:
        """Nothing runs between two questions."""

    @torch.inference_mode()
    def _generate(self, prompts: list[str], tokens: int) -> int:
        """Continue each by ``tokens`` tokens; returns how many it was."""
        ids = [self._tokenizer(prompt).input_ids for prompt in prompts]
        width = max(map(len, ids))
        padded = [[PADDING] * (width - len(each)) + each for each in ids]
        mask = [[0] * (width - len(each)) + [1] * len(each) for each in ids]
        device = self._model.device
        out = self._model.generate(
            input_ids=torch.tensor(padded, device=device),
            attention_mask=torch.tensor(mask, device=device),
            generation_config=GenerationConfig(
                do_sample=False, max_new_tokens=tokens, pad_token_id=PADDING
            ),
        )
        # Back to the worker as text: the others decode their answers, too.
        self._tokenizer.batch_decode(out[:, width:])
        return int(out.shape[1]) - width
