"""Opens a version of the catalog in the native engine."""

from app.catalog import Version
from app.config import Settings
from workers.engines.base import Publisher, nowhere
from workers.engines.native import wire
from workers.engines.native.engine import NativeEngine
from workers.engines.native.models import family
from workers.engines.transformers.loading import describe

# Named, not imported: what builds the loop belongs to the other process.
FACTORY = "workers.engines.native.building:build"


def open_engine(
    version: Version,
    *,
    settings: Settings,
    context_length: int,
    publish: Publisher = nowhere,
) -> NativeEngine:
    """The engine, ready for requests; raises ModelLoadFailed, UnknownArchitecture if another
    engine may know it. ``context_length`` is in tokens.
    """
    # Before a process is started, and weights are read that another engine would read again.
    config, tokenizer = describe(version, settings.models_dir)
    family(config)
    load = wire.Load(
        FACTORY,
        {
            "version": version,
            "models_dir": settings.models_dir,
            "device": settings.device,
            "context_length": context_length,
            "slots": settings.engine_slots,
        },
    )
    return NativeEngine(
        load,
        tokenizer=tokenizer,
        context_length=context_length,
        slots=settings.engine_slots,
        stall_seconds=settings.engine_stall_seconds,
        publish=publish,
    )
