"""Engines: what turns a prompt into text. ``load`` picks the one a catalog version names."""

from collections.abc import Mapping
from types import MappingProxyType

import structlog

from app.catalog import Model, Version
from app.config import Settings
from app.errors import ModelLoadFailed, UnknownArchitecture
from workers.engines.base import Engine, Publisher, nowhere
from workers.engines.fake import FakeEngine
from workers.engines.fake_behaviour import FakeBehaviour
from workers.engines.openai import loading as openai

Adapters = Mapping[str, Model]  # by name
NO_ADAPTERS: Adapters = MappingProxyType({})

log = structlog.get_logger(__name__)


def load(
    name: str,
    model: Model,
    *,
    version: str,
    settings: Settings,
    publish: Publisher = nowhere,
    adapters: Adapters = NO_ADAPTERS,
) -> Engine:
    """The engine that runs ``version`` of the model ``name``, ready for requests; ``publish`` is
    told the text of those that stream.

    Of the ``adapters`` of the model, those that cannot be served are in the engine's ``Stats``.
    Raises ModelLoadFailed with a sentence for the operator; the log has the library's own words.
    """
    if version not in model.versions:
        raise ModelLoadFailed(f"The model {name} has no version {version}.")
    try:
        chosen = model.versions[version]
        return _engine(model, chosen, settings, publish=publish, adapters=adapters)
    except ModelLoadFailed as error:
        message = f"{name}, version {version}: {error.message}"
        raise ModelLoadFailed(message, **error.details) from error


def _engine(
    model: Model, version: Version, settings: Settings, *, publish: Publisher, adapters: Adapters
) -> Engine:
    if version.engine == "fake":
        return FakeEngine(
            behaviour=FakeBehaviour.parse(version.source),
            context_length=model.context_length,
            slots=settings.engine_slots,
            publish=publish,
        )
    if version.engine == "openai":
        return openai.load(
            version, context_length=model.context_length, settings=settings, publish=publish
        )
    # torch and the model libraries take seconds to import, and only these engines need them.
    try:
        if version.engine == "native":
            return _native(model, version, settings, publish=publish, adapters=adapters)
        return _transformers(model, version, settings, publish=publish, adapters=adapters)
    except ImportError as error:
        raise ModelLoadFailed(
            f'A library is missing ({error.name}): install gptqueue with its "engine" extra.'
        ) from error


def _native(
    model: Model, version: Version, settings: Settings, *, publish: Publisher, adapters: Adapters
) -> Engine:
    from workers.engines.native.opening import open_engine

    try:
        return open_engine(
            version,
            settings=settings,
            context_length=model.context_length,
            publish=publish,
            adapters=adapters,
        )
    except UnknownArchitecture as error:
        if version.quantization is not None:
            message = f"Only the native engine quantizes to {version.quantization}. {error.message}"
            raise ModelLoadFailed(message) from error
        log.warning("engine_falls_back", reason=error.message, engine="transformers")
        return _transformers(model, version, settings, publish=publish, adapters=adapters)


def _transformers(
    model: Model, version: Version, settings: Settings, *, publish: Publisher, adapters: Adapters
) -> Engine:
    from workers.engines.transformers import loading
    from workers.engines.transformers.engine import TransformersEngine

    weights, tokenizer = loading.load(
        version, models_dir=settings.models_dir, device=settings.device
    )
    return TransformersEngine(
        model=weights,
        publish=publish,
        adapters=adapters,
        tokenizer=tokenizer,
        context_length=model.context_length,
        slots=settings.engine_slots,
        stall_seconds=settings.engine_stall_seconds,
    )
