"""Draw what ``bench/warm_models.py --json`` wrote.

python bench/plot_warm_models.py FIGURES.json PICTURE.svg
"""

import json
import sys
from typing import Any

import matplotlib
from matplotlib import pyplot
from matplotlib.axes import Axes

STYLES = {
    "random": ("#9aa5b1", ":"),
    "least loaded": ("#5f6b7a", "--"),
    "weights": ("#3b7dd8", "-"),
    "+ prefer_for": ("#8a4fbf", "-"),
    "+ sets_labels": ("#d9822b", "-"),
}


def draw(rows: list[dict[str, Any]], path: str) -> None:
    """Model loads and the wait of the slowest 5 %, by how much is asked for."""
    matplotlib.rcParams["svg.hashsalt"] = "ganger"  # the same figures make the same file
    pyplot.rcParams["font.size"] = 10
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 3.6))
    _lines(left, rows, "loads")
    left.set_title("model loads per 100 requests")
    _lines(right, rows, "p95")
    right.set_title("wait of the slowest 5 %, seconds")
    right.set_yscale("log")
    right.legend(frameon=False, loc="lower right", fontsize=9)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None} if path.endswith("svg") else None)


def _lines(axes: Axes, rows: list[dict[str, Any]], figure: str) -> None:
    rates = [row["rate"] for row in rows]
    for name in rows[0][figure]:
        colour, line = STYLES[name]
        values = [row[figure][name] for row in rows]
        axes.plot(rates, values, line, color=colour, label=name, marker="o", markersize=3)
    axes.set_xlabel("requests a second")
    axes.spines[["top", "right"]].set_visible(False)


if __name__ == "__main__":
    with open(sys.argv[1]) as file:
        draw(json.load(file), sys.argv[2])
