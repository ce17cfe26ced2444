"""Figures from result files.

python -m util.plots save/demo/sweep/sweep.json sweep.png
python -m util.plots save/demo/sweep/sweep.json speed.png --time
"""

import argparse
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib import colormaps
from matplotlib.figure import Figure

from util.exit_colours import exit_colour
from util.files import read_json

matplotlib.use("Agg")


_AXES = {
    "eval_block_avg": "mean decoder layers per token (block_avg)",
    "eval_ms_per_token": "ms per token, encoder included",
}
# Of the scores that a task has, the one that settings are compared by, and its name.
_SCORES = {"eval_rougeL": "ROUGE-L", "eval_bleu": "BLEU", "eval_f1": "F1 of answers"}
_NAMED_KINDS = 3  # with more kinds of exits the settings are not written at the points


def points_by_kind(points: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """The points of static exits, of each measure and the layer that ends its exits, and of each kind of
    drafts; points: of a sweep.json."""
    kinds: dict[str, list[dict[str, Any]]] = {}
    for point in points:
        verify = point.get("policy", {}).get("verify")
        measure, *others = point["setting"].split()
        kind = " ".join([measure, *(word for word in others if word.startswith("last="))])
        kinds.setdefault(kind if verify is None else f"{verify} drafts", []).append(point)
    return kinds


def main_score(points: list[dict[str, Any]]) -> tuple[str, str] | None:
    """The metric that a sweep's points are compared by, and its name: a score of their task that all of them
    have. None where there is none."""
    for metric, name in _SCORES.items():
        if all(metric in point["metrics"] for point in points):
            return metric, name
    return None


def plot_sweep(points: list[dict[str, Any]], x: str = "eval_block_avg") -> Figure:
    """A task's score against mean decoder layers a token, a line for static exits and one for each measure.

    points: of a sweep.json, `{"setting": name, "metrics": {...}}`, with a `main_score`. x: another metric to
    draw it against.
    """
    kinds = points_by_kind(points)
    score, name_of_score = main_score(points)
    crowded = len(kinds) > _NAMED_KINDS
    figure = Figure(figsize=(7.6, 5.4) if crowded else (6.4, 4.2), layout="constrained")
    axes = figure.add_subplot()
    for number, (name, members) in enumerate(kinds.items()):
        members = sorted(members, key=lambda point: point["metrics"][x])
        across = [point["metrics"][x] for point in members]
        scores = [point["metrics"][score] for point in members]
        is_static = name == "static"
        label = "static exits, layer" if is_static else f"{name} exits, λ"
        label = name if name.endswith(" drafts") else label
        marker = "o" if is_static else "svD^<>pPX*"[number % 10]
        style = {"marker": marker, "markersize": 5}
        if crowded:  # more kinds than the default colours tell apart
            style["color"] = "black" if is_static else colormaps["tab20"](number % 20)
        axes.plot(across, scores, label=label, **style)
        for point, place, y in zip(members, across, scores, strict=True):
            if crowded and not is_static:
                continue
            words = point["setting"].split()
            if not name.endswith(" drafts"):
                words = [each for each in words if each not in name.split()]
            axes.annotate(
                " ".join(words).removeprefix("λ="),
                (place, y),
                xytext=(4, -12) if is_static else (0, 7),  # thresholds stand close: upright, above
                textcoords="offset points",
                rotation=0 if is_static else 90,
                ha="left" if is_static else "center",
                fontsize=7,
            )
    axes.set_xlabel(_AXES[x])
    axes.set_ylabel(name_of_score)
    axes.margins(x=0.06, y=0.14)
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right", fontsize=8 if crowded else None)
    return figure


def plot_exit_layers(points: list[dict[str, Any]]) -> Figure:
    """Which share of tokens left at which layer, a bar a point of a sweep.json."""
    figure = Figure(figsize=(6.4, 0.32 * len(points) + 1.3), layout="constrained")
    axes = figure.add_subplot()
    names = [point["setting"] for point in points]
    counts = [point["metrics"]["eval_exit_layer_counts"] for point in points]
    layers = len(counts[0])
    left = [0.0] * len(points)
    for layer in range(1, layers + 1):
        shares = [own[layer - 1] / max(1, sum(own)) for own in counts]
        colour = [value / 255 for value in exit_colour(layer, layers)]
        axes.barh(names, shares, left=left, color=colour, label=str(layer))
        left = [start + share for start, share in zip(left, shares, strict=True)]
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.set_xlabel("share of tokens, by exit layer")
    axes.legend(title="layer", fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def main() -> None:
    """Draws the sweep file given on the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sweep", type=Path, help="sweep.json")
    parser.add_argument("picture", type=Path, help="where the picture goes: .png, .svg or .pdf")
    parser.add_argument(
        "--time",
        action="store_true",
        help="against milliseconds a token, not layers; of drafts the layers count those that were dropped",
    )
    arguments = parser.parse_args()
    content = read_json(arguments.sweep)
    if content is None:
        parser.error(f"{arguments.sweep}: no such file")
    x = "eval_ms_per_token" if arguments.time else "eval_block_avg"
    plot_sweep(content["points"], x).savefig(arguments.picture, dpi=160)


if __name__ == "__main__":
    main()
