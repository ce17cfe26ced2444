"""Figures from result files.

python -m util.plots save/demo/sweep/sweep.json sweep.png
"""

import argparse
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from util.files import read_json

matplotlib.use("Agg")


def plot_sweep(points: list[dict[str, Any]]) -> Figure:
    """ROUGE-L against mean decoder layers a token, a line for static exits and one for each measure.

    points: of a sweep.json, `{"setting": name, "metrics": {...}}`.
    """
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.add_subplot()
    families: dict[str, list[dict[str, Any]]] = {}
    for point in points:
        families.setdefault(point["setting"].split()[0], []).append(point)
    for name, members in families.items():
        members = sorted(members, key=lambda point: point["metrics"]["eval_block_avg"])
        layers = [point["metrics"]["eval_block_avg"] for point in members]
        rouge = [point["metrics"]["eval_rougeL"] for point in members]
        axes.plot(layers, rouge, marker="o" if name == "static" else "s", label=f"{name} exits")
        for point, x, y in zip(members, layers, rouge, strict=True):
            label = point["setting"].removeprefix(name).strip()
            below = name == "static"
            axes.annotate(
                label,
                (x, y),
                xytext=(4, -12) if below else (-4, 6),
                textcoords="offset points",
                ha="left" if below else "right",
                fontsize=7,
            )
    axes.set_xlabel("mean decoder layers per token (block_avg)")
    axes.set_ylabel("ROUGE-L")
    axes.margins(0.1)
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    return figure


def main() -> None:
    """Draws the sweep file given on the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sweep", type=Path, help="sweep.json")
    parser.add_argument("picture", type=Path, help="where the picture goes: .png, .svg or .pdf")
    arguments = parser.parse_args()
    content = read_json(arguments.sweep)
    if content is None:
        parser.error(f"{arguments.sweep}: no such file")
    plot_sweep(content["points"]).savefig(arguments.picture, dpi=160)


if __name__ == "__main__":
    main()
