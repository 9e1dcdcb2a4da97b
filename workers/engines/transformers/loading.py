"""Opens a checkpoint: GPTQ through gptqmodel's kernels, every other one in bfloat16."""

import os
import re
import warnings
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
    try:
        config = AutoConfig.from_pretrained(**place, trust_remote_code=False)
        _check(config)
        tokenizer = AutoTokenizer.from_pretrained(**place, trust_remote_code=False)
        with warnings.catch_warnings():
            # What the libraries deprecate among themselves is no news to an operator.
            warnings.simplefilter("ignore")
            model = _model(place, config, on_cuda=cuda)
    except ModelLoadFailed:
        raise
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise ModelLoadFailed("The model does not fit into memory.") from error
    except Exception as error:
        raise ModelLoadFailed(_sentence(error)) from error
    return model.eval(), tokenizer


def load_tokenizer(version: Version, models_dir: Path) -> Any:
    """The tokenizer alone; raises ModelLoadFailed saying why not."""
    be_quiet()
    place = _place(version, models_dir)
    try:
        return AutoTokenizer.from_pretrained(**place, trust_remote_code=False)
    except Exception as error:
        raise ModelLoadFailed(_sentence(error)) from error


def on_cuda(device: str) -> bool:
    """Whether models go to a GPU; raises ModelLoadFailed if there must be one and is not."""
    available = torch.cuda.is_available()
    if device == "cuda" and not available:
        raise ModelLoadFailed("The device is set to cuda, but there is no CUDA device here.")
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
        return AutoModelForCausalLM.from_pretrained(**options)
    options["dtype"] = torch.float16
    if _marlin_takes(quantization):
        try:
            marlin = GPTQConfig(bits=quantization["bits"], backend="gptq_marlin")
            return AutoModelForCausalLM.from_pretrained(**options, quantization_config=marlin)
        except (ImportError, NotImplementedError, RuntimeError, ValueError) as error:
            log.warning("engine.no_marlin", reason=_sentence(error))
    return AutoModelForCausalLM.from_pretrained(**options)


def _marlin_takes(quantization: dict[str, Any]) -> bool:
    symmetric = quantization.get("sym", True) and not quantization.get("desc_act", False)
    return symmetric and quantization.get("bits") in (4, 8)


def _sentence(error: Exception) -> str:
    """The first line of a library's message, which is the part made for people."""
    if "trust_remote_code" in str(error):
        return "This model brings its own code, and such code is never run here."
    first = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__}: {first}"
