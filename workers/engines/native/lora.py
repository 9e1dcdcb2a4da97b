"""Reads the LoRA adapters that peft writes, and refuses those that do not fit a model."""

import math
import re
import warnings
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from peft import LoraConfig, load_peft_weights
from peft.utils.other import get_pattern_key
from torch import Tensor

from app.errors import ModelLoadFailed
from workers.engines.native.adapters import PROJECTIONS, Adapter, Base, Place, Size, Update

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"

# Settings of peft that are followed, or change nothing once an adapter is trained. Any other must
# be as it is by default, for nobody knows what it means.
FOLLOWED = {
    "peft_type", "peft_version", "task_type", "inference_mode", "base_model_name_or_path",
    "revision", "auto_mapping", "target_modules", "exclude_modules", "layers_to_transform",
    "layers_pattern", "r", "rank_pattern", "lora_alpha", "alpha_pattern", "use_rslora",
    "lora_dropout", "eva_config",
}  # fmt: skip
# Others (PiSSA, OLoRA and the like) change the weights of the base before they begin.
FAIR_BEGINNINGS = {True, False, None, "gaussian", "orthogonal", "eva"}

_KEY = re.compile(
    r"base_model\.model\.(?P<module>model\.layers\.(?P<layer>\d+)\.(?:self_attn|mlp)\."
    rf"(?P<name>{'|'.join(PROJECTIONS)}))\.lora_(?P<half>[AB])\.weight"
)


def read(folder: Path, base: Base) -> Adapter:
    """The adapter in a folder; raises ModelLoadFailed saying why it cannot be served."""
    _check_files(folder)
    with _telling(CONFIG):
        written = LoraConfig.from_json_file(str(folder / CONFIG))
        _check_settings(written)
        config = LoraConfig.from_pretrained(str(folder))
    _check_kind(config, base)
    with _telling(WEIGHTS):
        return _fitted(load_peft_weights(str(folder), device="cpu"), config, base)


def _check_files(folder: Path) -> None:
    if not folder.is_dir():
        raise ModelLoadFailed(f"The folder {folder} does not exist.")
    for name in (CONFIG, WEIGHTS):  # else peft would look for the folder's name on the hub
        if not (folder / name).is_file():
            raise ModelLoadFailed(f"The folder {folder} has no {name}.")


@contextmanager
def _telling(file: str) -> Iterator[None]:
    """Make a sentence for the operator of whatever a library raises."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of settings without a value that are newer than peft
            yield
    except ModelLoadFailed:
        raise
    except Exception as error:
        first = (str(error).strip().splitlines() or [""])[0]
        reason = f"{type(error).__name__}: {first}".rstrip(": ")
        raise ModelLoadFailed(f"Its {file} cannot be read: {reason}") from error


def _check_settings(written: Mapping[str, Any]) -> None:
    kind = written.get("peft_type")
    if kind != "LORA":
        raise ModelLoadFailed(f"It is no LoRA adapter, but one of the kind {kind}.")
    if written.get("use_dora"):
        raise ModelLoadFailed("It is a DoRA adapter, and only plain LoRA is served.")
    beginning = written.get("init_lora_weights")
    if beginning not in FAIR_BEGINNINGS:
        raise ModelLoadFailed(f"It changes its base's own weights, too ({beginning}).")
    defaults = LoraConfig().to_dict()
    for name, value in written.items():
        known = name in FOLLOWED or name == "init_lora_weights"
        if value and not known and value != defaults.get(name):
            raise ModelLoadFailed(f"It was trained with {name} = {value!r}, which is not served.")


def _check_kind(config: Any, base: Base) -> None:
    kind = (config.auto_mapping or {}).get("base_model_class", base.kind)
    if kind != base.kind:
        raise _another_base(config, f"it was made for a {kind}, and this is a {base.kind}")


def _another_base(config: Any, why: str) -> ModelLoadFailed:
    named = config.base_model_name_or_path
    other = f"another base, {named}" if named else "another base"
    return ModelLoadFailed(f"It is an adapter of {other}: {why}.")


def _fitted(weights: Mapping[str, Tensor], config: Any, base: Base) -> Adapter:
    halves: dict[str, dict[str, Tensor]] = defaultdict(dict)  # by module
    places: dict[str, Place] = {}
    for key, tensor in weights.items():
        match = _KEY.fullmatch(key)
        if match is None:
            raise ModelLoadFailed(f"It changes {key}, and only projections' matrices are served.")
        places[match["module"]] = int(match["layer"]), match["name"]
        halves[match["module"]][match["half"]] = tensor.float()
    if not halves:
        raise ModelLoadFailed(f"Its {WEIGHTS} has no weights.")
    for module, (layer, name) in places.items():
        size = base.layers[layer][name] if layer < len(base.layers) else None
        _check_sizes(module, halves[module], config, size=size)
    return {
        places[module]: Update(both["A"], both["B"] * _scale(module, config))
        for module, both in halves.items()
    }


def _check_sizes(
    module: str, halves: Mapping[str, Tensor], config: Any, *, size: Size | None
) -> None:
    """``size`` is the base's, None where it has no such layer."""
    if size is None:
        raise _another_base(config, f"this one has no {module}")
    rank = _rank(module, config)
    shapes = {half: tuple(tensor.shape) for half, tensor in halves.items()}
    if shapes == {"A": (rank, size.into), "B": (size.out, rank)}:
        return
    if shapes.keys() != {"A", "B"} or len(shapes["A"]) != 2 or len(shapes["B"]) != 2:
        raise ModelLoadFailed(f"Its {WEIGHTS} has no two matrices for {module}.")
    into, out = shapes["A"][1], shapes["B"][0]
    if (out, into) == size:
        raise ModelLoadFailed(f"Its {module} has another rank than its {CONFIG} says.")
    theirs = f"its {module} goes from {into} to {out}"
    raise _another_base(config, f"{theirs}, and that of this one from {size.into} to {size.out}")


def _scale(module: str, config: Any) -> float:
    rank, alphas = _rank(module, config), config.alpha_pattern
    alpha = alphas.get(get_pattern_key(alphas, module), config.lora_alpha)
    return float(alpha) / (math.sqrt(rank) if config.use_rslora else rank)


def _rank(module: str, config: Any) -> int:
    rank: int = config.rank_pattern.get(get_pattern_key(config.rank_pattern, module), config.r)
    return rank
