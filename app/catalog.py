"""The served models: name -> versions, queue, price, limits, read from one TOML file."""

import re
import tomllib
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from app.errors import UnknownModel

Name = Annotated[str, Field(pattern=re.compile(r"^[a-z0-9][a-z0-9._-]{0,62}$"))]
Micros = Annotated[int, Field(ge=0, strict=True)]

# The engines of which one worker serves a model and its adapters.
ADAPTING = ("native", "fake")


class Version(BaseModel):
    """One immutable version of a model: where its weights are and what runs them.

    With a ``base`` it is a LoRA adapter of the model of that name, whose workers serve it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str
    base: Name | None = None
    revision: str | None = None
    engine: Literal["native", "transformers", "openai", "fake"] = "native"
    served_name: str | None = None
    quantization: Literal["int8"] | None = None

    @model_validator(mode="after")
    def _name_of_a_server(self) -> "Version":
        if self.served_name is not None and self.engine != "openai":
            raise ValueError('served_name is for the engine "openai" only')
        return self

    @model_validator(mode="after")
    def _quantization_of_ours(self) -> "Version":
        if self.quantization is not None and self.engine != "native":
            raise ValueError('quantization is for the engine "native" only')
        return self

    @model_validator(mode="after")
    def _adapter(self) -> "Version":
        of_the_base = {"engine", "revision", "served_name", "quantization"} & self.model_fields_set
        if self.base is not None and of_the_base:
            raise ValueError(f"an adapter has no {min(of_the_base)}: its base says what runs it")
        return self

    def local_path(self, models_dir: Path) -> Path | None:
        """The folder that holds this version, or None when it is not at hand."""
        path = models_dir / (self.served_name or self.source)
        return path if path.is_dir() else None


class Model(BaseModel):
    """One served model; prices are micro-USD per million tokens."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    enabled: bool = False
    description: str = ""
    context_length: int = Field(ge=2)
    default_max_tokens: int = Field(256, ge=1)
    input_price_micros: Micros
    output_price_micros: Micros
    batch_price_percent: int = Field(50, ge=0, le=100, strict=True)
    version: str
    versions: dict[str, Version]

    @model_validator(mode="after")
    def _version_exists(self) -> "Model":
        if self.version not in self.versions:
            raise ValueError(f"version {self.version!r} is not among {sorted(self.versions)}")
        return self

    @property
    def current(self) -> Version:
        """The version that new jobs get."""
        return self.versions[self.version]


class Catalog(BaseModel):
    """Every model in the file, enabled or not."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    models: dict[Name, Model]

    @model_validator(mode="after")
    def _adapters_have_their_bases(self) -> "Catalog":
        for name, model in self.models.items():
            for number, version in model.versions.items():
                if version.base is not None:
                    self._check_base(model, version.base, f"{name}, version {number}")
        return self

    def _check_base(self, adapter: Model, name: str, entry: str) -> None:
        base = self.models.get(name)
        if base is None:
            raise ValueError(f"{entry}: its base {name} is not in the catalog")
        if any(version.base is not None for version in base.versions.values()):
            raise ValueError(f"{entry}: its base {name} is an adapter itself")
        if base.current.engine not in ADAPTING:
            raise ValueError(
                f'{entry}: its base {name} has the engine "{base.current.engine}", and only '
                '"native" serves adapters; a server beside the worker serves them as models of '
                "their own"
            )
        if adapter.context_length > base.context_length:
            raise ValueError(f"{entry}: its context_length is more than that of its base {name}")
        if adapter.enabled and not base.enabled:
            raise ValueError(f"{entry}: it is enabled, and its base {name} is not")

    def adapters_of(self, name: str) -> dict[str, Model]:
        """The enabled models that are adapters of this one."""
        return {each: model for each, model in self.enabled().items() if model.current.base == name}

    def running(self, model: Model) -> Version:
        """The version whose engine and tokenizer a new job of this model gets: an adapter's base's,
        or its own.
        """
        base = model.current.base
        return model.current if base is None else self.models[base].current

    def enabled(self) -> dict[str, Model]:
        """The models that clients may use."""
        return {name: model for name, model in self.models.items() if model.enabled}

    def served(self, name: str) -> Model:
        """The enabled model of that name; raises UnknownModel."""
        enabled = self.enabled()
        if name not in enabled:
            raise UnknownModel(
                f"The model {name[:100]!r} is not served here.", known_models=sorted(enabled)
            )
        return enabled[name]


def load(path: Path) -> Catalog:
    """Read the catalog; raises ValueError naming the file and the entry at fault."""
    try:
        return Catalog.model_validate(tomllib.loads(path.read_text()))
    except (OSError, ValueError) as error:
        raise ValueError(f"catalog {path}: {error}") from error
