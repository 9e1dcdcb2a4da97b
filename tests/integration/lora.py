"""Adapters with random weights for the tiny models, made and saved by peft itself."""

from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model

ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
# Every projection, with ranks and scales that differ by module.
WIDE = {
    "r": 4,
    "lora_alpha": 6,
    "target_modules": ALL,
    "use_rslora": True,
    "rank_pattern": {"k_proj": 2},
    "alpha_pattern": {r"layers\.1\.self_attn\.q_proj": 3},
}
# Some projections of some layers.
NARROW = {
    "r": 3,
    "lora_alpha": 5,
    "target_modules": ["q_proj", "v_proj", "up_proj"],
    "layers_to_transform": [0, 2],
}


def saved(folder: Path, model: Any, *, seed: int = 1, **settings: Any) -> Path:
    """The folder of a new adapter; peft changes ``model``."""
    torch.manual_seed(seed)
    # Else its second half is zero, as before the first step of a training.
    chosen = {"init_lora_weights": False, "task_type": "CAUSAL_LM", **settings}
    return written(folder, model, LoraConfig(**chosen))


def written(folder: Path, model: Any, config: Any) -> Path:
    """The folder of a new adapter of any kind; peft changes ``model``."""
    get_peft_model(model, config).save_pretrained(folder, save_embedding_layers=False)
    return folder


def oracle(model: Any, folders: dict[str, Path]) -> Any:
    """peft's own model with these adapters; peft changes ``model``."""
    first, *others = folders
    adapted = PeftModel.from_pretrained(model, folders[first], adapter_name=first)
    for name in others:
        adapted.load_adapter(folders[name], adapter_name=name)
    return adapted.eval()
