"""What is wanted of the engine, beside what was found."""

from dataclasses import dataclass
from typing import Literal

from scripts.benching.figures import Figure


@dataclass(frozen=True, slots=True)
class Target:
    """A figure's ratio, or its value, is wanted to be ``bound`` or more; with ``most``, or less."""

    wanted: str
    figure: str
    bound: float
    of: Literal["ratio", "value"] = "ratio"
    most: bool = False

    def verdict(self, found: dict[str, Figure]) -> str:
        """One line: whether it holds, and by which numbers."""
        figure = found.get(self.figure)
        number = getattr(figure, self.of, None)
        if figure is None or number is None:
            return f"-  not measured: {self.wanted}"
        holds = number <= self.bound if self.most else number >= self.bound
        unit = "" if self.of == "ratio" else f" {figure.unit}"
        side = "at most" if self.most else "at least"
        return f"{'✓' if holds else '✗'}  {number:,g}{unit}, {side} {self.bound:,g}: {self.wanted}"


def verdicts(targets: list[Target], figures: list[Figure]) -> list[str]:
    """A line for each target."""
    found = {figure.name: figure for figure in figures}
    return [target.verdict(found) for target in targets]


def _arrivals() -> list[Target]:
    """Those that every way of arriving has in common."""
    ways = {"16": "16 together", "64": "64 together", "random": "arriving at random"}
    return [
        target
        for load, way in ways.items()
        for target in (
            Target(f"{way}, beside the static batch", f"engine_{load}_static", 1.2),
            Target(f"{way}, beside continuous batching", f"engine_{load}_continuous", 2.0),
        )
    ]


TARGETS = [
    *_arrivals(),
    Target("16 together, beside llama-server", "engine_16_llama", 1.5),
    # What the compiled step of a trial reached.
    Target("16 together, beside the static batch, once compiled", "engine_16_static", 2.1),
    Target("16 together, beside continuous batching, once compiled", "engine_16_continuous", 3.7),
    Target("16 together, beside llama-server, once compiled", "engine_16_llama", 3.2),
    Target("1 request, beside generate", "engine_1_static", 1.8),
    Target("1 request, beside llama-server", "engine_1_llama", 1.0),
    Target("a step of the loop with 512 requests", "engine_loop_512", 1.0, of="value", most=True),
    Target("inside the worker, one by one, beside the engine alone", "engine_in_worker", 0.9),
    Target(
        "inside the worker, in batches, beside the engine alone", "engine_in_worker_batches", 0.9
    ),
]

GPU_TARGETS = [
    Target("1.5B, 512 requests", "gpu_1.5b_gptq_512", 100_000, of="value"),
    Target("1.5B bf16, 512 requests", "gpu_1.5b_bf16_512", 100_000, of="value"),
    Target("8B, 256 requests", "gpu_8b_gptq_256", 25_000, of="value"),
    Target("8B bf16, 256 requests", "gpu_8b_bf16_256", 25_000, of="value"),
    *(
        Target(f"{model} {kind}, 64 requests, of the roofline", f"gpu_{model}_{kind}_64", 0.5)
        for model in ("1.5b", "8b")
        for kind in ("gptq", "bf16")
    ),
]
