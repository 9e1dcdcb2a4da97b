"""LoRA adapters (Hu et al. 2021) on the projections of a model, several of them in the same step.

An adapter adds ``x @ down @ up`` to a projection of its own tokens. A step's tokens stand side by
side by adapter, so each is one range, and a step without any costs nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from workers.engines.native.linear import Linear
from workers.engines.native.models.llama import Llama

# The parts of a layer, and the projections that each computes side by side.
FUSED = {
    "qkv": ("q_proj", "k_proj", "v_proj"),
    "output": ("o_proj",),
    "gate_up": ("gate_proj", "up_proj"),
    "down": ("down_proj",),
}
PROJECTIONS = [name for names in FUSED.values() for name in names]


class Size(NamedTuple):
    """Of a projection's matrix."""

    out: int
    into: int


class Update(NamedTuple):
    """What is added to a projection's matrix: ``b @ a``, in float32."""

    a: Tensor  # (rank, in)
    b: Tensor  # (out, rank), with the scale


Place = tuple[int, str]  # a layer and a projection
Adapter = dict[Place, Update]


@dataclass(frozen=True, slots=True)
class Base:
    """What an adapter must fit: the class of a transformers model, and its layers' projections."""

    kind: str
    layers: list[dict[str, Size]]

    @classmethod
    def of(cls, model: Any) -> "Base":
        """``model`` is transformers' own, loaded, whose layers are all there."""
        return cls(type(model).__name__, [_sizes(layer) for layer in model.model.layers])


def _sizes(layer: Any) -> dict[str, Size]:
    modules = {**dict(layer.self_attn.named_children()), **dict(layer.mlp.named_children())}
    return {
        name: Size(module.out_features, module.in_features)
        for name, module in modules.items()
        if name in PROJECTIONS
    }


@dataclass(slots=True)
class Active:
    """The adapters of this step by number, and which of its tokens are their own."""

    tokens: list[tuple[int, slice]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class LowRank:
    """What an adapter adds to a matrix: ``down`` (in, rank), ``up`` (rank, out) with its scale."""

    down: Tensor
    up: Tensor


class Adapted:
    """A Linear to which some adapters add."""

    def __init__(self, linear: Linear, adapters: Mapping[int, LowRank], active: Active) -> None:
        """``adapters`` are by number; those that leave this matrix as it is are not among them."""
        self._linear = linear
        self._adapters = adapters
        self._active = active

    def __call__(self, x: Tensor) -> Tensor:
        """See Linear."""
        y = self._linear(x)
        for number, own in self._active.tokens:
            added = self._adapters.get(number)
            if added is not None:
                y[own].addmm_(x[own] @ added.down, added.up)
        return y


def attach(model: Llama, base: Base, adapters: Mapping[int, Adapter]) -> Active:
    """Let these adapters, by number, add to the layers of ``model``, which was made of ``base``;
    where to say which tokens of a step are theirs.
    """
    active = Active()
    for index, layer in enumerate(model.layers):
        adapted: dict[str, Any] = {}
        for part, names in FUSED.items():
            outs = [base.layers[index][name].out for name in names]
            places = [(index, name) for name in names]
            added = {
                number: _low_rank([adapter.get(place) for place in places], outs, model)
                for number, adapter in adapters.items()
                if not adapter.keys().isdisjoint(places)
            }
            if added:
                adapted[part] = Adapted(getattr(layer, part), added, active)
        model.layers[index] = replace(layer, **adapted)
    return active


def _low_rank(updates: Sequence[Update | None], outs: Sequence[int], model: Llama) -> LowRank:
    """Of projections that stand side by side, each with so many outputs; None adds nothing."""
    down = torch.cat([update.a for update in updates if update is not None])
    # Each adds to its own outputs alone.
    ups = [
        torch.zeros(out, 0) if update is None else update.b
        for out, update in zip(outs, updates, strict=True)
    ]
    up: Tensor = torch.block_diag(*ups)  # type: ignore[no-untyped-call]
    return LowRank(
        down.to(model.device, model.dtype).T,
        up.to(model.device, model.dtype).T,
    )
