"""Makes a loop from a checkpoint: weights, kernels, KV memory."""

import time
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import Any

import structlog

from app.catalog import Version
from app.errors import ModelLoadFailed, UnknownArchitecture
from workers.engines.endings import end_tokens
from workers.engines.grammar import Grammars
from workers.engines.memory import is_out_of_memory, too_large
from workers.engines.native import sizing
from workers.engines.native.adapters import Adapter, Base, attach
from workers.engines.native.graphs import Capturing
from workers.engines.native.loop import Loop
from workers.engines.native.models import family, lean
from workers.engines.native.models.llama import Llama
from workers.engines.native.runner import ModelRunner
from workers.engines.native.schemas import as_json
from workers.engines.transformers import loading

# The most new tokens of a step: as much as keeps the arithmetic busy, and no more, because who
# decodes waits for it. On an H200 arithmetic, and not memory, takes the time from some 200 tokens
# on; but steps with prompts are no graphs, and so large ones outlast their launches also with a
# small model. One of 2048 takes an 8B model at least 42 ms.
BUDGET = {"cpu": 256, "cuda": 2048}

NO_ADAPTERS: Mapping[str, Path] = MappingProxyType({})

log = structlog.get_logger(__name__)


def build(
    version: Version,
    *,
    models_dir: Path,
    device: str,
    context_length: int,
    slots: int,
    adapters: Mapping[str, Path] = NO_ADAPTERS,
) -> Loop:
    """The loop for a checkpoint; raises ModelLoadFailed, UnknownArchitecture if another engine may
    know it.

    ``device`` is auto, cpu or cuda; ``context_length`` is in tokens; ``adapters`` are folders by
    name, of which those that cannot be served are the loop's ``refused``.
    """
    if loading.on_cuda(device) and find_spec("triton") is None:
        raise UnknownArchitecture("The native engine needs Triton on CUDA, which is not installed.")
    weights, tokenizer = loading.load(version, models_dir=models_dir, device=device)
    try:
        return assemble(
            weights,
            tokenizer,
            context_length=context_length,
            slots=slots,
            int8=version.quantization == "int8",
            adapters=adapters,
        )
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        message = too_large("The model, with its keys and values,", error)
        raise ModelLoadFailed(message) from error


def assemble(
    weights: Any,
    tokenizer: Any,
    *,
    context_length: int,
    slots: int,
    blocks: int | None = None,
    int8: bool = False,
    adapters: Mapping[str, Path] = NO_ADAPTERS,
) -> Loop:
    """The loop for a loaded transformers model, whose layers are taken apart; ``blocks`` of KV
    memory, None for as many as are of use and fit; ``int8`` as for ``lean``.
    """
    family(weights.config)
    ends = end_tokens(weights, tokenizer)
    try:
        base = Base.of(weights)
        read, refused = _adapters(base, adapters)
        dense = sizing.dense_fits(weights)
        model = lean(weights, positions=context_length, dense=dense, int8=int8)
        active = attach(model, base, read)
    except (AttributeError, TypeError) as error:
        # A model of a known kind whose parts are not those we know.
        log.warning("engine.parts_unknown", exc_info=error)
        message = "The native engine does not know all parts of this model."
        raise UnknownArchitecture(message) from error
    on_cuda = model.device.type == "cuda"
    budget = BUDGET[model.device.type]
    if blocks is None:
        blocks = sizing.blocks(model, context_length=context_length, slots=slots, budget=budget)
    runner = ModelRunner(model, blocks=blocks, active=active)
    _say_built(model, blocks)
    if on_cuda:
        _capture(runner, slots=slots, context_length=context_length)
    return Loop(
        runner,
        slots=slots,
        context_length=context_length,
        budget=budget,
        ahead=on_cuda,
        end_tokens=ends,
        grammars=_grammars(tokenizer, runner.vocabulary, ends),
        refused=refused,
    )


def _say_built(model: Llama, blocks: int) -> None:
    log.info(
        "engine.built",
        kernels=type(model.kernels).__name__,
        dtype=str(model.dtype).removeprefix("torch."),
        device=str(model.device),
        kv_tokens=blocks * model.kernels.block_size,
        kv_mib=blocks * model.block_bytes >> 20,
    )


def _capture(runner: ModelRunner, *, slots: int, context_length: int) -> None:
    """Without graphs steps are slower, but right."""
    started, width = time.monotonic(), -(-context_length // runner.block_size)
    try:
        graphs = runner.capture(slots=slots, width=width, capture=Capturing())
    except RuntimeError as error:
        log.warning("engine.no_graphs", exc_info=error)
    else:
        log.info("engine.captured", graphs=graphs, seconds=round(time.monotonic() - started, 1))


def _adapters(base: Base, folders: Mapping[str, Path]) -> tuple[dict[int, Adapter], dict[str, str]]:
    """Those that fit, by number as in wire.Job, and why others are refused, by name."""
    read: dict[int, Adapter] = {}
    refused: dict[str, str] = {}
    if not folders:
        return read, refused
    try:
        from workers.engines.native import lora  # peft takes seconds to import
    except ImportError as error:
        return read, dict.fromkeys(folders, f"A library is missing: {error.name}.")
    for number, (name, folder) in enumerate(folders.items(), start=1):
        try:
            read[number] = lora.read(folder, base)
        except ModelLoadFailed as error:
            refused[name] = error.message
        except Exception as error:
            # Whatever is in its files, or keeps them from us: the base and the others are served.
            log.warning("engine.adapter_unreadable", adapter=name, exc_info=error)
            refused[name] = f"It cannot be read: {type(error).__name__}."
    return read, refused


def _grammars(tokenizer: Any, vocabulary: int, ends: frozenset[int]) -> Grammars | None:
    """None where schemas cannot be followed with this tokenizer."""
    text = as_json(tokenizer)
    if text is None:
        return None
    try:
        return Grammars(text, vocabulary=max(vocabulary, len(tokenizer)), end_tokens=ends)
    except ValueError as error:
        log.warning("engine.no_schemas", reason=str(error))
        return None
