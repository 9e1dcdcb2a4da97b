"""Draw figures: ``python -m scripts.benching.plot docs/benchmarks.jsonl docs/benchmarks.png``.

Each line of the first file is what ``scripts/bench ... --json`` printed. A bar is a figure's ratio
to its baseline. It needs matplotlib (``pip install -e .[plot]``).
"""

import json
import sys
from pathlib import Path

import matplotlib.pyplot as plt

BETTER, WORSE = "#2b7a5d", "#b65b3a"
TICKS = [0.1, 0.2, 0.5, 1, 2, 5, 10, 20]


def draw(source: Path, target: Path) -> None:
    """Read the figures and write a PNG."""
    lines = source.read_text().splitlines()
    figures = [each for line in lines for each in json.loads(line) if each["ratio"] is not None]
    figures.reverse()  # bars are drawn from below
    ratios = [each["ratio"] for each in figures]
    labels = [
        f"{each['name']}   {each['value']:,g} against {each['baseline']:,g} {each['unit']}"
        for each in figures
    ]
    chart, axes = plt.subplots(figsize=(9, 0.28 * len(figures) + 1), dpi=90)
    colours = [BETTER if ratio >= 1 else WORSE for ratio in ratios]
    axes.barh(labels, [ratio - 1 for ratio in ratios], left=1, color=colours)
    for place, ratio in enumerate(ratios):
        side = "left" if ratio >= 1 else "right"
        axes.annotate(
            f" {ratio:g} ", (ratio, place), ha=side, va="center", color="black", fontsize=8
        )
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_xscale("log")
    axes.set_xlim(min(0.1, *ratios) / 1.2, max(2, *ratios) * 1.2)
    axes.set_xticks(TICKS, labels=[f"{tick:g}" for tick in TICKS])
    axes.minorticks_off()
    axes.set_xlabel("ratio to the baseline of the same run; right of the line is better")
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    chart.savefig(target, bbox_inches="tight")


if __name__ == "__main__":
    draw(Path(sys.argv[1]), Path(sys.argv[2]))
