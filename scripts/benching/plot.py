"""Draw figures: ``python -m scripts.benching.plot docs/benchmarks.jsonl docs/benchmarks.png``.

Each line of the first file is what ``scripts/bench ... --json`` printed. A bar is a figure's ratio
to its baseline. It needs matplotlib (``pip install -e .[plot]``).
"""

import json
import sys
from pathlib import Path

import matplotlib.pyplot as plt

BETTER, WORSE = "#2b7a5d", "#b65b3a"


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
    bars = axes.barh(labels, ratios, color=colours)
    axes.bar_label(bars, [f"{ratio:g}" for ratio in ratios], padding=3, fontsize=8)
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_xscale("log")
    axes.set_xlim(min(ratios) / 1.5, max(ratios) * 1.5)
    axes.set_xlabel("ratio to the baseline of the same run; right of the line is better")
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    chart.savefig(target, bbox_inches="tight")


if __name__ == "__main__":
    draw(Path(sys.argv[1]), Path(sys.argv[2]))
