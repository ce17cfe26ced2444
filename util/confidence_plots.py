"""Figures that compare confidence measures, from result files.

python -m util.confidence_plots sweep.json --heads eval_results.json --folder FOLDER
python -m util.confidence_plots sweep.json --time confidence_time.png

sweep.json: of evaluations by static layers and by measures; eval_results.json: of a training of exit heads.
--time draws only what asking costs.
"""

import argparse
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from util.files import read_json
from util.plots import plot_sweep

Points = list[dict[str, Any]]


def plot_confidence_time(points: Points) -> Figure:
    """Milliseconds that each measure takes for one token at one layer.

    Where no token leaves (λ = 1) every measure is asked at L − 1 layers: what such a token takes beyond one
    of static exits at layer L, over L − 1.
    """
    layers = len(points[0]["metrics"]["eval_exit_layer_counts"])
    times = {point["setting"]: point["metrics"]["eval_ms_per_token"] for point in points}
    full = times[f"static {layers}"]
    measured = {
        name.replace(" λ=1.0", ""): (taken - full) / (layers - 1)
        for name, taken in times.items()
        if _is_asked_everywhere(name)
    }
    figure = Figure(figsize=(6.4, 0.35 * len(measured) + 1.2), layout="constrained")
    axes = figure.add_subplot()
    bars = axes.barh(list(measured), list(measured.values()))
    axes.bar_label(bars, fmt="%.3f", padding=3, fontsize=8)
    axes.axvline(full / layers, color="0.4", linestyle="--", label="a token's time at full depth, over L")
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.set_xlabel("ms per token and layer")
    axes.legend(fontsize=8)
    return figure


def can_plot_confidence_time(points: Points) -> bool:
    """Whether a sweep has what `plot_confidence_time` compares: full depth, and a measure that lets none
    leave."""
    layers = len(points[0]["metrics"]["eval_exit_layer_counts"])
    names = {point["setting"] for point in points}
    return f"static {layers}" in names and any(map(_is_asked_everywhere, names))


def _is_asked_everywhere(name: str) -> bool:
    """Whether a measure is asked below full depth at every layer, for the token alone; not the oracle, which
    runs all layers to be asked."""
    somewhere = name.startswith("oracle") or any(
        word.startswith(("min=", "max=", "last=")) for word in name.split()
    )
    return "λ=1.0" in name.split() and not somewhere


def plot_reliability(heads: dict[str, dict[str, dict[str, Any]]]) -> Figure:
    """A panel an exit head: share of tokens that agree with full depth against confidence, a line a layer.

    heads: name → layer → `head_quality.quality`. The size of a dot grows with its share of tokens.
    """
    columns = min(3, len(heads))
    rows = -(-len(heads) // columns)
    figure = Figure(figsize=(3.2 * columns, 3.0 * rows + 0.5), layout="constrained")
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).flatten()
    for panel in panels[len(heads) :]:
        panel.set_visible(False)
    for panel, (name, layers) in zip(panels, heads.items(), strict=False):
        panel.plot([0, 1], [0, 1], color="0.7", linewidth=1)
        for layer, quality in layers.items():
            bins = [each for each in quality["reliability"] if each[0]]
            tokens = sum(count for count, _, _ in bins)
            _, confidence, share = zip(*bins, strict=True)
            (line,) = panel.plot(confidence, share, linewidth=1, label=f"layer {layer}")
            sizes = [4 + 120 * count / tokens for count, _, _ in bins]
            panel.scatter(confidence, share, s=sizes, color=line.get_color(), alpha=0.7)
        panel.set_title(name, fontsize=9)
        panel.grid(alpha=0.3)
    panels[0].legend(fontsize=7)
    figure.supxlabel("confidence")
    figure.supylabel("share that agrees with full depth")
    return figure


def main() -> None:
    """Draws all figures of a comparison into a folder."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sweep", type=Path)
    parser.add_argument("--heads", type=Path)
    parser.add_argument("--folder", type=Path, help="where the pictures go")
    parser.add_argument("--time", type=Path, help="where the one picture goes")
    arguments = parser.parse_args()
    sweep = read_json(arguments.sweep)
    if arguments.time is not None and sweep is not None:
        plot_confidence_time(sweep["points"]).savefig(arguments.time, dpi=160)
        return
    if arguments.heads is None or arguments.folder is None:
        parser.error("give --heads and --folder, or --time")
    results = read_json(arguments.heads)
    if sweep is None or results is None:
        parser.error(f"{arguments.sweep if sweep is None else arguments.heads}: no such file")
    figures = {
        "layers": plot_sweep(sweep["points"]),
        "time": plot_sweep(sweep["points"], x="eval_ms_per_token"),
        "confidence_time": plot_confidence_time(sweep["points"]),
        "reliability": plot_reliability(results["eval_heads"]),
    }
    for name, figure in figures.items():
        figure.savefig(arguments.folder / f"{name}.png", dpi=160)


if __name__ == "__main__":
    main()
