"""Opens a checkpoint: GPTQ through gptqmodel's kernels, every other one in bfloat16."""

import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# Both are read when gptqmodel is imported. Its loader wants a pool of two threads also where
# there are fewer cores, and offline it never fetches sources to compile a kernel from.
os.environ.setdefault("GPTQMODEL_CPU_WORKERS", "2")
os.environ.setdefault("GPTQMODEL_OFFLINE", "1")

import structlog
import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, DynamicCache, GPTQConfig
from transformers.cache_utils import DynamicLayer

from app.catalog import Version
from app.errors import ModelLoadFailed
from workers.engines.breakdown import gpu_failure
from workers.engines.memory import is_out_of_memory, too_large
from workers.engines.transformers.quiet import be_quiet

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
CAUSAL = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")

log = structlog.get_logger()


def load(version: Version, *, models_dir: Path, device: str) -> tuple[Any, Any]:
    """The model, ready to generate, and its tokenizer; raises ModelLoadFailed saying why not.

    ``device`` is auto, cpu or cuda.
    """
    be_quiet()
    cuda = on_cuda(device)
    place = _place(version, models_dir)
    config, tokenizer = _read(place)
    with _telling("The weights"), warnings.catch_warnings():
        # What the libraries deprecate among themselves is no news to an operator.
        warnings.simplefilter("ignore")
        model = _model(place, config, on_cuda=cuda)
    return model.eval(), tokenizer


def describe(version: Version, models_dir: Path) -> tuple[Any, Any]:
    """All but the weights: config and tokenizer; raises ModelLoadFailed saying why not."""
    be_quiet()
    return _read(_place(version, models_dir))


def _read(place: dict[str, str | None]) -> tuple[Any, Any]:
    with _telling("The config.json"):
        config = AutoConfig.from_pretrained(**place, trust_remote_code=False)
    _check(config)
    with _telling("The tokenizer"):
        return config, AutoTokenizer.from_pretrained(**place, trust_remote_code=False)


@contextmanager
def _telling(what: str) -> Iterator[None]:
    """Make a sentence for the operator of whatever a library raises."""
    try:
        yield
    except ModelLoadFailed:
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise ModelLoadFailed(too_large("The model", error)) from error
        if failure := gpu_failure(error):
            raise ModelLoadFailed(failure) from error
        if "trust_remote_code" in str(error):
            message = "This model brings its own code, and such code is never run here."
            raise ModelLoadFailed(message) from error
        message = f"{what} of this checkpoint cannot be loaded: {_sentence(error)}"
        raise ModelLoadFailed(message) from error


def on_cuda(device: str) -> bool:
    """Whether models go to a GPU; raises ModelLoadFailed if there must be one and is not."""
    available = torch.cuda.is_available()
    if device == "cuda" and not available:
        raise ModelLoadFailed("A GPU is to be used, but there is no CUDA device here.")
    return available and device != "cpu"


def _place(version: Version, models_dir: Path) -> dict[str, str | None]:
    """What from_pretrained needs to find the checkpoint: a folder, or a hub id and revision."""
    folder = version.local_path(models_dir)
    if folder:
        if not (folder / "config.json").is_file():
            raise ModelLoadFailed(f"The folder {folder} has no config.json.")
        if not any(folder.glob("*.safetensors")):
            raise ModelLoadFailed(f"The folder {folder} has no safetensors, and only those load.")
        return {"pretrained_model_name_or_path": str(folder)}
    if not HUB_ID.fullmatch(version.source):
        raise ModelLoadFailed(f"The folder {models_dir / version.source} does not exist.")
    return {"pretrained_model_name_or_path": version.source, "revision": version.revision}


def _check(config: Any) -> None:
    """Refuse what cannot be decoded row by row with a cache of keys and values."""
    kind = config.model_type
    known = type(config) in transformers.MODEL_FOR_CAUSAL_LM_MAPPING
    named = config.architectures or [CAUSAL[0]]
    if not known or config.is_encoder_decoder or not any(map(_is_causal, named)):
        raise ModelLoadFailed(f"This is no causal language model, but {named[0]} ({kind}).")
    if not all(isinstance(layer, DynamicLayer) for layer in DynamicCache(config=config).layers):
        raise ModelLoadFailed(f"Models of the kind {kind} keep more than keys and values.")
    method = _quantization(config).get("quant_method", "gptq")
    if method != "gptq":
        raise ModelLoadFailed(f"This checkpoint is quantized with {method}; only GPTQ is served.")


def is_quantized(config: Any) -> bool:
    """Whether the checkpoint of this config is quantized."""
    return bool(_quantization(config))


def _is_causal(architecture: str) -> bool:
    return architecture.endswith(CAUSAL)


def _quantization(config: Any) -> dict[str, Any]:
    settings: dict[str, Any] = getattr(config, "quantization_config", None) or {}
    return settings


def _model(place: dict[str, str | None], config: Any, *, on_cuda: bool) -> Any:
    options: dict[str, Any] = {
        **place,
        "dtype": torch.bfloat16,
        # Without an explicit place, a kernel for the CPU is chosen for good.
        "device_map": {"": 0 if on_cuda else "cpu"},
        "use_safetensors": True,
        "trust_remote_code": False,
    }
    quantization = _quantization(config)
    if not (quantization and on_cuda):
        return _whole(**options)
    options["dtype"] = torch.float16
    if _marlin_takes(quantization):
        try:
            marlin = GPTQConfig(bits=quantization["bits"], backend="gptq_marlin")
            return _whole(**options, quantization_config=marlin)
        except (ImportError, NotImplementedError, RuntimeError, ValueError) as error:
            log.warning("engine.no_marlin", reason=_sentence(error))
    return _whole(**options)


def _whole(**options: Any) -> Any:
    """The model, if the checkpoint has all its weights: others would be random numbers."""
    model, found = AutoModelForCausalLM.from_pretrained(
        **options, output_loading_info=True, ignore_mismatched_sizes=True
    )
    wrong = sorted({*found["missing_keys"], *(name for name, *_ in found["mismatched_keys"])})
    if wrong:
        raise ModelLoadFailed(
            f"Of this checkpoint's weights, {len(wrong)} are missing or have other sizes than its "
            f"config.json says, {wrong[0]} among them."
        )
    return model


def _marlin_takes(quantization: dict[str, Any]) -> bool:
    symmetric = quantization.get("sym", True) and not quantization.get("desc_act", False)
    return symmetric and quantization.get("bits") in (4, 8)


def _sentence(error: Exception) -> str:
    """The first line of a library's message, which is the part made for people."""
    first = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__}: {first}".rstrip(": ")
