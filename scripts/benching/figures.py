"""What a benchmark found out."""

import json
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

from rich import box
from rich.table import Table


@dataclass(frozen=True, slots=True)
class Figure:
    """One number; a ``ratio`` above 1 means better than the baseline."""

    name: str
    value: float
    unit: str
    baseline: float | None = None
    ratio: float | None = None


def higher_is_better(
    name: str, unit: str, *, values: Iterable[float], baselines: Iterable[float]
) -> Figure:
    """A rate: the medians of the rounds."""
    value, baseline = statistics.median(values), statistics.median(baselines)
    return Figure(name, _rounded(value), unit, _rounded(baseline), _rounded(value / baseline))


def lower_is_better(
    name: str, unit: str, *, values: Iterable[float], baselines: Iterable[float]
) -> Figure:
    """A time: the medians of the rounds."""
    value, baseline = statistics.median(values), statistics.median(baselines)
    return Figure(name, _rounded(value), unit, _rounded(baseline), _rounded(baseline / value))


def alone(name: str, unit: str, values: Iterable[float]) -> Figure:
    """A figure without a baseline."""
    return Figure(name, _rounded(statistics.median(values)), unit)


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that at least ``percent`` of all do not exceed."""
    ordered = sorted(values)
    rank = -(-len(ordered) * percent // 100)
    return ordered[max(0, int(rank) - 1)]


def as_json(figures: list[Figure]) -> str:
    """All of them in one line."""
    return json.dumps([asdict(figure) for figure in figures])


def as_table(figures: list[Figure]) -> Table:
    """All of them for people."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("figure")
    for heading in ("GPTQueue", "baseline"):
        table.add_column(heading, justify="right")
    table.add_column("unit")
    table.add_column("ratio", justify="right")
    for each in figures:
        table.add_row(each.name, _shown(each.value), _shown(each.baseline), each.unit, _times(each))
    return table


def _rounded(value: float) -> float:
    return float(f"{value:.3g}")


def _shown(value: float | None) -> str:
    return "" if value is None else f"{value:,g}"


def _times(figure: Figure) -> str:
    return "" if figure.ratio is None else f"{figure.ratio:.2g}x"
