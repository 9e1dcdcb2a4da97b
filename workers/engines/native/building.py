"""Makes a loop from a checkpoint: weights, kernels, KV memory."""

from pathlib import Path
from typing import Any

import structlog

from app.catalog import Version
from app.errors import ModelLoadFailed, UnknownArchitecture
from workers.engines.grammar import Grammars
from workers.engines.memory import free_bytes, is_out_of_memory, too_large
from workers.engines.native.loop import Loop
from workers.engines.native.models import family, lean
from workers.engines.native.models.llama import Llama
from workers.engines.native.runner import ModelRunner
from workers.engines.native.schemas import as_json
from workers.engines.transformers import loading
from workers.engines.transformers.engine import end_tokens

# The most new tokens of a step: as much as keeps the arithmetic busy, and no more, because who
# decodes waits for it.
BUDGET = 256
# Of the memory that is free when the model is loaded, so much is for keys and values.
KV_SHARE = 0.5
# 4 bit matrices are kept in bfloat16, too, if that takes no more of the free memory than this.
DENSE_SHARE = 0.25

log = structlog.get_logger(__name__)


def build(
    version: Version, *, models_dir: Path, device: str, context_length: int, slots: int
) -> Loop:
    """The loop for a checkpoint; raises ModelLoadFailed, UnknownArchitecture if another engine may
    know it.

    ``device`` is auto, cpu or cuda; ``context_length`` is in tokens.
    """
    if loading.on_cuda(device):
        raise UnknownArchitecture("The native engine has no kernels for CUDA yet.")
    weights, tokenizer = loading.load(version, models_dir=models_dir, device=device)
    try:
        return assemble(
            weights,
            tokenizer,
            context_length=context_length,
            slots=slots,
            int8=version.quantization == "int8",
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
) -> Loop:
    """The loop for a loaded transformers model, whose layers are taken apart; ``blocks`` of KV
    memory, None for as many as are of use and fit; ``int8`` as for ``lean``.
    """
    family(weights.config)
    ends = end_tokens(weights, tokenizer)
    try:
        model = lean(weights, positions=context_length, dense=_dense_fits(weights), int8=int8)
    except (AttributeError, TypeError) as error:
        # A model of a known kind whose parts are not those we know.
        log.warning("engine.parts_unknown", exc_info=error)
        message = "The native engine does not know all parts of this model."
        raise UnknownArchitecture(message) from error
    if blocks is None:
        blocks = _blocks(model, context_length=context_length, slots=slots)
    runner = ModelRunner(model, blocks=blocks)
    log.info(
        "engine.built",
        kernels=type(model.kernels).__name__,
        dtype=str(model.dtype).removeprefix("torch."),
        device=str(model.device),
        kv_tokens=blocks * model.kernels.block_size,
        kv_mib=blocks * model.block_bytes >> 20,
    )
    return Loop(
        runner,
        slots=slots,
        context_length=context_length,
        budget=BUDGET,
        end_tokens=ends,
        grammars=_grammars(tokenizer, runner.vocabulary, ends),
    )


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


def _blocks(model: Llama, *, context_length: int, slots: int) -> int:
    """As many as all slots can use, or as fit."""
    useful = slots * -(-context_length // model.kernels.block_size)
    fitting = int(free_bytes() * KV_SHARE) // model.block_bytes
    if fitting < 1:
        raise ModelLoadFailed("There is no memory left for keys and values beside the model.")
    return min(useful, fitting)


def _dense_fits(weights: Any) -> bool:
    config = weights.config
    # Roughly: what the layers' matrices have in weights, at two bytes each.
    per_layer = config.hidden_size * (4 * config.hidden_size + 3 * config.intermediate_size)
    needed: int = 2 * config.num_hidden_layers * per_layer
    return needed < free_bytes() * DENSE_SHARE
