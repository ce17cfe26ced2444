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
        is_static = name == "static"
        label = "static exits, layer" if is_static else f"{name} exits, λ"
        axes.plot(layers, rouge, marker="o" if is_static else "s", label=label)
        for point, x, y in zip(members, layers, rouge, strict=True):
            axes.annotate(
                point["setting"].removeprefix(name).strip().removeprefix("λ="),
                (x, y),
                xytext=(4, -12) if is_static else (0, 7),  # thresholds stand close: upright, above
                textcoords="offset points",
                rotation=0 if is_static else 90,
                ha="left" if is_static else "center",
                fontsize=7,
            )
    axes.set_xlabel("mean decoder layers per token (block_avg)")
    axes.set_ylabel("ROUGE-L")
    axes.margins(x=0.06, y=0.14)
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
