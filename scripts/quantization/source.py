"""Reads the model that is to be quantized: a folder, a hub id or a GGUF file."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer

from scripts.quantization.errors import Refused


@dataclass(frozen=True)
class Source:
    """A full-precision model and its tokenizer."""

    model: Any
    tokenizer: Any

    def save(self, folder: Path) -> None:
        """Write both as a transformers checkpoint, as which the quantizer reads them."""
        self.model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)

    def bytes_in_16_bit(self) -> int:
        """What the weights take up unquantized, at two bytes each."""
        return 2 * sum(parameter.numel() for parameter in self.model.parameters())

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
            fitting = [size for size in (128, 64, 32, 16) if not any(w % size for w in widths)]
            advice = " or ".join(map(str, fitting)) or "no size of 16 or more"
            raise Refused(
                f"The group size {group_size} does not divide this model's layer width "
                f"{odd[0]}; --group-size {advice} would."
            )


def read(source: str) -> Source:
    """The model in full precision; raises Refused when it cannot be read."""
    try:
        return _gguf(Path(source)) if source.endswith(".gguf") else _checkpoint(source)
    except Refused:
        raise
    except Exception as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise Refused(f"{source} cannot be read as a causal language model: {first}") from error


def _checkpoint(source: str) -> Source:
    options: dict[str, Any] = {"trust_remote_code": False}
    config = transformers.AutoConfig.from_pretrained(source, **options)
    if getattr(config, "quantization_config", None):
        raise Refused(f"{source} is quantized already; name the full-precision model.")
    return Source(
        model=AutoModelForCausalLM.from_pretrained(
            source, dtype="auto", use_safetensors=True, **options
        ).eval(),
        tokenizer=AutoTokenizer.from_pretrained(source, **options),
    )


def _gguf(file: Path) -> Source:
    if not file.is_file():
        raise Refused(f"{file} does not exist.")
    model = AutoModelForCausalLM.from_pretrained(
        str(file.parent), gguf_file=file.name, dtype=torch.bfloat16
    )
    # The weights are full precision now; nothing saved from here may claim to be GGUF.
    del model.config.quantization_config
    model.hf_quantizer = None
    model.is_quantized = False
    tokenizer = AutoTokenizer.from_pretrained(str(file.parent), gguf_file=file.name)
    return Source(model=model.eval(), tokenizer=tokenizer)
