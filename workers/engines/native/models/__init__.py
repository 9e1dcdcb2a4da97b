"""A lean forward for each family of architectures, over the weights of a transformers model.

transformers' own modelling code spends half of a decoding step of a small model in Python; these
do the same arithmetic in a tenth of the calls. Tests hold them against transformers' logits.
"""

from functools import partial
from typing import Any

import torch

from app.errors import UnknownArchitecture
from workers.engines.native.int8 import Int8, Rows, check_processor
from workers.engines.native.kernels import Kernels, choose
from workers.engines.native.linear import Make, of_weight
from workers.engines.native.models.gemma import Gemma
from workers.engines.native.models.llama import Llama
from workers.engines.native.models.qwen import Qwen

FAMILIES: dict[str, type[Llama]] = {
    "llama": Llama,
    "mistral": Llama,
    "qwen2": Qwen,
    "qwen3": Qwen,
    "gemma": Gemma,
    "gemma2": Gemma,
    "gemma3_text": Gemma,
}
# Those whose angles depend on the length of the text are not tables.
ROTATIONS = {"default", "linear", "llama3", "yarn"}


def family(config: Any) -> type[Llama]:
    """The class for a transformers config; raises UnknownArchitecture."""
    kind = config.model_type
    if kind not in FAMILIES:
        raise UnknownArchitecture(f"The native engine has no forward for models of kind {kind}.")
    rotation = (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default")
    if rotation not in ROTATIONS:
        raise UnknownArchitecture(f"The native engine has no rotary embedding of type {rotation}.")
    return FAMILIES[kind]


def lean(model: Any, *, positions: int, dense: bool, int8: bool = False) -> Llama:
    """The lean forward of a loaded transformers model; raises UnknownArchitecture.

    ``positions`` is the longest text in tokens. ``dense`` says whether there is memory for 4 bit
    matrices in bfloat16, too; ``int8`` quantizes those of the layers that are not.
    """
    kind = family(model.config)
    kernels = kernels_for(model.config, model.get_input_embeddings().weight.device)
    make: Make = of_weight
    if int8:
        check_processor()
        assert isinstance(kernels, Rows)  # as all for the CPU
        make = partial(Int8, rows=kernels)
    return kind(model, kernels, positions=positions, dense=dense, make=make)


def kernels_for(config: Any, device: torch.device) -> Kernels:
    """The kernels that take this model's sizes."""
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return choose(device, sizes=(head, config.hidden_size, config.intermediate_size))
