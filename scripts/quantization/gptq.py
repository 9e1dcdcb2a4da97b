"""Quantizes a checkpoint with GPTQ (Frantar et al. 2022), by gptqmodel."""

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partialmethod
from pathlib import Path
from typing import Any

# Both are read when gptqmodel is imported: see workers/engines/transformers/loading.py.
os.environ.setdefault("GPTQMODEL_CPU_WORKERS", "2")
os.environ.setdefault("GPTQMODEL_OFFLINE", "1")

# What torch's int4 kernel on the CPU takes; it refuses any other size when the model answers.
GROUP_SIZES = (256, 128, 64, 32)
# How many passages run through a layer together.
BATCH = 8
# Each group's scale is the one of least squared error among a few clipped ones, which takes a
# quarter to a third off the rise in perplexity. gptqmodel would try 80 scales, down to a fifth of
# the range, in more time than all else takes; the best is never that small.
ERROR_POWER = 2.0
SCALES_TRIED = {"grid": 25, "maxshrink": 0.4}


@dataclass(frozen=True)
class Grid:
    """What weights are rounded to: ``bits`` each, with one scale for ``group_size`` of them."""

    bits: int
    group_size: int


def quantize(
    *, source: Path, dest: Path, grid: Grid, passages: Sequence[str], advance: Callable[[], None]
) -> None:
    """Write the checkpoint ``source``, quantized, to ``dest``; ``advance`` follows every layer.

    Both are absolute. Symmetric and without act-order, because that is what Marlin and vLLM run.
    """
    # gptqmodel leaves a folder of logs where it runs; this one goes away with the source.
    with contextlib.chdir(source), _silence():
        from gptqmodel import GPTQModel, QuantizeConfig
        from gptqmodel.quantization.quantizer import Quantizer
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(source)
        config = QuantizeConfig(
            bits=grid.bits,
            group_size=grid.group_size,
            sym=True,
            desc_act=False,
            mse=ERROR_POWER,
            # One pass through a layer instead of four; the perplexity was the same.
            true_sequential=False,
            # Otherwise the name of a temporary folder ends up in the checkpoint.
            offload_to_disk=False,
        )
        model = GPTQModel.load(str(source), config, trust_remote_code=False)
        model.layer_callback = _Layers(advance)
        Quantizer.configure = partialmethod(Quantizer.configure, **SCALES_TRIED)
        model.quantize(_encoded(passages, tokenizer), tokenizer=tokenizer, batch_size=BATCH)
        model.save(str(dest))
        # Its own copy of the tokenizer has other special tokens than the one we read.
        tokenizer.save_pretrained(dest)
        (dest / "quant_log.csv").unlink(missing_ok=True)


def _encoded(passages: Sequence[str], tokenizer: Any) -> list[dict[str, list[int]]]:
    """Token ids of the passages; with a chat template every second one is a turn of a chat.

    A chat model has to keep what it learnt about the template's tokens.
    """
    encoded = []
    for place, passage in enumerate(passages):
        if tokenizer.chat_template and place % 2:
            ids = tokenizer.apply_chat_template(_chat(passage), return_dict=False)
        else:
            ids = tokenizer(passage).input_ids
        encoded.append({"input_ids": ids, "attention_mask": [1] * len(ids)})
    return encoded


def _chat(passage: str) -> list[dict[str, str]]:
    first, _, rest = passage.partition(". ")
    return [
        {"role": "user", "content": first},
        {"role": "assistant", "content": rest or passage},
    ]


class _Layers:
    """Tells a progress bar of every layer that gptqmodel has finished."""

    def __init__(self, advance: Callable[[], None]) -> None:
        self._advance = advance
        self._seen: set[int] = set()

    def layer_complete(self, *, layer_idx: int, submodule_finalized: bool) -> Any:
        """Called by gptqmodel, more than once a layer."""
        if layer_idx not in self._seen:
            self._seen.add(layer_idx)
            self._advance()


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """gptqmodel draws on standard output, where our own progress bar is."""
    with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stdout(nowhere):
        yield
