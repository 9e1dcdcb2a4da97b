"""Checkpoints with random weights in a given shape: in bfloat16, or packed as GPTQ packs them.

What they say is noise, but every kernel does the work that it does for the real model. Their
tokenizer knows numbers, so that a prompt has exactly as many tokens as words.
"""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from scripts.benching.engine.shapes import BITS, GROUP_SIZE, Shape

# As small as trained ones are, so that no activation overflows float16.
SPREAD = 0.02
PER_WORD = 32 // BITS
# The standard deviation of the whole numbers from 0 to 15.
EVEN_SPREAD = 4.61
# The zero point 8 in each 4 bits, less the 1 that the format takes off.
ZEROS = 0x77777777


def make(folder: Path, shape: Shape, *, quantized: bool, group_size: int = GROUP_SIZE) -> Path:
    """Write a checkpoint of this shape to ``folder``."""
    folder.mkdir()
    # Unless told otherwise, some kinds of models take their token 2 for the end of a text.
    ends = {"bos_token_id": None, "eos_token_id": None}
    config = {**shape.config(), **ends, "dtype": "bfloat16"}
    skeleton = AutoConfig.for_model(**config)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(skeleton)
    save_file(_weights(model, group_size if quantized else 0), folder / "model.safetensors")
    config["architectures"] = [type(model).__name__]
    if quantized:
        config["quantization_config"] = _quantization(group_size)
    (folder / "config.json").write_text(json.dumps(config))
    _tokenizer(shape.vocab_size).save_pretrained(folder)
    return folder


def _weights(model: Any, group_size: int) -> dict[str, Tensor]:
    """Every tensor of the model; ``group_size`` 0 packs none of its layers."""
    tied = "lm_head.weight" if model.config.tie_word_embeddings else ""
    found: dict[str, Tensor] = {}
    for name, weight in model.state_dict().items():
        if name == tied:
            continue
        packed = group_size and ".layers." in name and weight.dim() == 2
        if packed:
            layer = name.removesuffix("weight")
            for part, tensor in _packed(weight.shape, group_size).items():
                found[layer + part] = tensor
        else:
            found[name] = _plain(name, weight.shape)
    return found


def _plain(name: str, shape: torch.Size) -> Tensor:
    if "norm" in name:
        return torch.ones(shape, dtype=torch.bfloat16)
    return torch.empty(shape, dtype=torch.bfloat16, device=_device()).normal_(std=SPREAD).cpu()


def _device() -> str:
    """A processor takes minutes for billions of random numbers."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def _packed(shape: torch.Size, group_size: int) -> dict[str, Tensor]:
    """One linear layer, ``shape`` (out, in), in GPTQ's format: eight weights to a word."""
    out_features, in_features = shape
    groups = in_features // group_size
    limit = 2**31
    words = (in_features // PER_WORD, out_features)
    return {
        "qweight": torch.randint(-limit, limit, words, dtype=torch.int32, device=_device()).cpu(),
        "qzeros": torch.full((groups, out_features // PER_WORD), ZEROS, dtype=torch.int32),
        "scales": torch.full((groups, out_features), SPREAD / EVEN_SPREAD, dtype=torch.float16),
        "g_idx": torch.arange(in_features, dtype=torch.int32) // group_size,
    }


def _quantization(group_size: int) -> dict[str, Any]:
    return {
        "quant_method": "gptq",
        "checkpoint_format": "gptq",
        "bits": BITS,
        "group_size": group_size,
        "sym": True,
        "desc_act": False,
        "lm_head": False,
        "pack_dtype": "int32",
    }


def _tokenizer(vocabulary: int) -> PreTrainedTokenizerFast:
    numbers = {str(number): number for number in range(vocabulary)}
    inner = Tokenizer(models.WordLevel(numbers, unk_token="0"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=inner)
