"""How many blocks of KV memory a model gets."""

from typing import Any

import numpy as np
import torch

from app.errors import ModelLoadFailed
from workers.engines.memory import free_bytes
from workers.engines.native.batch import Batch, ragged
from workers.engines.native.models.llama import Llama
from workers.engines.native.runner import ModelRunner

# On the CPU: of the memory that is free when the model is loaded, the rest is others'.
CPU_SHARE = 0.5
# On CUDA: of the whole device, all that this process has included. The rest is for what a trial
# does not see: the sampler, captured graphs, memory in pieces too small.
CUDA_SHARE = 0.9
# 4 bit matrices that our kernels cannot multiply are kept in bfloat16, too, if that takes no more
# of the free memory than this.
DENSE_SHARE = 0.25


def blocks(model: Llama, *, context_length: int, slots: int, budget: int) -> int:
    """As many as all slots can use, or as fit beside a step of ``budget`` tokens; raises
    ModelLoadFailed if one request of ``context_length`` tokens does not fit.
    """
    size = model.kernels.block_size
    needed = -(-context_length // size)
    if model.device.type == "cuda":
        free = _free_on_cuda(model, context_length=context_length, slots=slots, budget=budget)
    else:
        free = int(free_bytes() * CPU_SHARE)
    fitting = max(0, free // model.block_bytes)
    if fitting < needed:
        # The API accepts what the catalog promises, and another worker may have the room.
        raise ModelLoadFailed(
            f"The catalog promises {context_length} tokens of context; beside the model there is "
            f"memory for the keys and values of {fitting * size}. Lower its context_length, free "
            "memory, or serve a smaller model."
        )
    return min(slots * needed, fitting)


def dense_fits(weights: Any) -> bool:
    """Whether a transformers model may have its 4 bit matrices in bfloat16, too."""
    config = weights.config
    # Roughly: what the layers' matrices have in weights, at two bytes each.
    per_layer = config.hidden_size * (4 * config.hidden_size + 3 * config.intermediate_size)
    needed: int = 2 * config.num_hidden_layers * per_layer
    return needed < free_bytes() * DENSE_SHARE


def trial(block_size: int, *, context_length: int, tokens: int, rows: int) -> Batch:
    """A step as large as any: prompts of ``tokens`` tokens in all, and logits for ``rows`` of them.

    All blocks, of ``block_size`` tokens, are block 0, so that it needs no KV memory of its own.
    """
    tokens = max(tokens, rows)
    full, rest = divmod(tokens, context_length)
    counts = np.array([context_length] * full + [rest] * (rest > 0), np.int32)
    _, positions = ragged(counts)
    most_blocks = -(-int(counts.max()) // block_size)
    nobody = np.zeros(0, np.int32)
    return Batch(
        slots=np.arange(len(counts), dtype=np.int32),
        adapters=np.zeros(len(counts), np.int32),
        tokens=np.zeros(tokens, np.int32),
        positions=positions,
        places=positions % block_size,
        starts=np.append(0, np.cumsum(counts)).astype(np.int32),
        lengths=counts,
        tables=np.zeros((len(counts), most_blocks), np.int32),
        wanted=np.arange(rows, dtype=np.int32),
        wanted_slots=np.arange(rows, dtype=np.int32),
        ahead=nobody,
        ahead_slots=nobody,
    )


def left_on_cuda(*, total: int, free: int, reserved: int, peak: int) -> int:
    """Bytes for keys and values: the share, less what others have and the peak of a trial.

    ``free`` of ``total`` is what the driver says, ``reserved`` what PyTorch holds of the rest.
    """
    others = total - free - reserved
    return int(total * CUDA_SHARE) - others - peak


def _free_on_cuda(model: Llama, *, context_length: int, slots: int, budget: int) -> int:
    torch.cuda.reset_peak_memory_stats()
    runner = ModelRunner(model, blocks=1)
    size = runner.block_size
    batch = trial(size, context_length=context_length, tokens=budget, rows=slots)
    newest = torch.zeros(slots, dtype=torch.int32, device=model.device)
    with torch.inference_mode():
        runner.run(batch, newest).float()  # as the sampler has them
    torch.cuda.synchronize()
    free, total = torch.cuda.mem_get_info()
    reserved, peak = torch.cuda.memory_reserved(), torch.cuda.max_memory_allocated()
    torch.cuda.empty_cache()
    return left_on_cuda(total=total, free=free, reserved=reserved, peak=peak)
