"""Opens a version of the catalog in the native engine."""

from collections.abc import Mapping
from typing import Any

from app.catalog import Model, Version
from app.config import Settings
from app.errors import ModelLoadFailed
from workers.engines.base import Publisher, nowhere
from workers.engines.native import wire
from workers.engines.native.engine import NativeEngine
from workers.engines.native.models import family
from workers.engines.transformers.loading import describe, is_quantized, on_cuda

# Named, not imported: what builds the loop belongs to the other process.
FACTORY = "workers.engines.native.building:build"


def open_engine(
    version: Version,
    *,
    settings: Settings,
    context_length: int,
    publish: Publisher = nowhere,
    adapters: Mapping[str, Model],
) -> NativeEngine:
    """The engine, ready for requests; raises ModelLoadFailed, UnknownArchitecture if another
    engine may know it. ``context_length`` is in tokens; ``adapters`` of the model are by name.
    """
    # Before a process is started, and weights are read that another engine would read again.
    config, tokenizer = describe(version, settings.models_dir)
    family(config)
    if version.quantization is not None:
        _check_quantization(version.quantization, config, settings.device)
    load = wire.Load(
        FACTORY,
        {
            "version": version,
            "models_dir": settings.models_dir,
            # Once for all: a restart must not go on with the CPU when the GPU is lost.
            "device": "cuda" if on_cuda(settings.device) else "cpu",
            "context_length": context_length,
            "slots": settings.engine_slots,
            "adapters": {
                name: settings.models_dir / each.current.source for name, each in adapters.items()
            },
        },
    )
    return NativeEngine(
        load,
        tokenizer=tokenizer,
        context_length=context_length,
        slots=settings.engine_slots,
        stall_seconds=settings.engine_stall_seconds,
        publish=publish,
        adapters={name: each.context_length for name, each in adapters.items()},
    )


def _check_quantization(quantization: str, config: Any, device: str) -> None:
    wanted = f'Its catalog entry says quantization = "{quantization}"'
    if is_quantized(config):
        raise ModelLoadFailed(f"{wanted}, but this checkpoint is quantized with GPTQ already.")
    if on_cuda(device):
        raise ModelLoadFailed(
            f"{wanted}, which is for the CPU only: take it out, or set GPTQUEUE_DEVICE=cpu."
        )
