"""Reads the model that is to be quantized: a folder, a hub id or a GGUF file."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Read when tqdm is imported: the GGUF reader asks nobody else before it draws.
os.environ.setdefault("TQDM_DISABLE", "1")

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from scripts.quantization.errors import Refused, reason
from scripts.quantization.gptq import GROUP_SIZES


@dataclass(frozen=True)
class Source:
    """An unquantized model and its tokenizer."""

    model: Any
    tokenizer: Any

    def save(self, folder: Path) -> None:
        """Write both as a transformers checkpoint, as which the quantizer reads them."""
        self.model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)

    def bytes_in_16_bit(self) -> int:
        """What the weights take up unquantized, at two bytes each."""
        weights: int = sum(parameter.numel() for parameter in self.model.parameters())
        return 2 * weights

    def check_group_size(self, group_size: int) -> None:
        """Raise Refused when a layer's width is not a multiple of ``group_size``."""
        widths = {
            module.in_features
            for name, module in self.model.named_modules()
            if isinstance(module, torch.nn.Linear) and not name.endswith("lm_head")
        }
        if not widths:
            raise Refused("This model has no linear layers that GPTQ could quantize.")
        odd = sorted(width for width in widths if width % group_size)
        if odd:
            fitting = [size for size in GROUP_SIZES if not any(w % size for w in widths)]
            advice = " or ".join(map(str, fitting)) or f"no size of {min(GROUP_SIZES)} or more"
            raise Refused(
                f"The group size {group_size} does not divide this model's layer width "
                f"{odd[0]}; --group-size {advice} would."
            )


def read(source: str) -> Source:
    """The model, unquantized in bfloat16; raises Refused when it cannot be read."""
    path = Path(source)
    if not path.exists() and (source.endswith(".gguf") or source.startswith((".", "/", "~"))):
        raise Refused(f"{source} does not exist.")
    try:
        return _gguf(path) if path.is_file() else _checkpoint(source)
    except Refused:
        raise
    except Exception as error:
        raise Refused(
            f"{source} cannot be read as a causal language model: {reason(error)}"
        ) from error


def _checkpoint(source: str) -> Source:
    config = AutoConfig.from_pretrained(source, trust_remote_code=False)
    if getattr(config, "quantization_config", None):
        raise Refused(f"{source} is quantized already; name the full-precision model.")
    return _loaded(source)


def _gguf(file: Path) -> Source:
    source = _loaded(str(file.parent), gguf_file=file.name)
    # The weights are full precision now; nothing saved from here may claim to be GGUF.
    del source.model.config.quantization_config
    source.model.hf_quantizer = None
    source.model.is_quantized = False
    return source


def _loaded(place: str, **options: str) -> Source:
    model = AutoModelForCausalLM.from_pretrained(
        place,
        dtype=torch.bfloat16,
        device_map="auto" if torch.cuda.is_available() else None,
        trust_remote_code=False,
        **options,
    )
    tokenizer = AutoTokenizer.from_pretrained(place, trust_remote_code=False, **options)
    return Source(model=model.eval(), tokenizer=tokenizer)
