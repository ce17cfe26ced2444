"""The picture of `headline.py`: speed against loss, a point a system, certified ones ringed.

python -m benchmarks.headline_figure benchmarks/results/headline
"""

import sys
from pathlib import Path

from matplotlib.axes import Axes

from benchmarks.drawing import panels, save
from util.files import read_json

TITLES = {"e2e": "E2E, 6 decoder layers", "multi30k": "Multi30k de → en, 12 decoder layers"}
# Colours that stay apart without colour vision (Wong 2011), and a shape each.
LOOKS = {
    "peer": ("#555555", "X"),
    "full depth": ("#000000", "s"),
    "static": ("#E69F00", "v"),
    "CALM": ("#56B4E9", "o"),
    "FREE": ("#CC79A7", "P"),
    "exact drafts": ("#009E73", "D"),
    "drafts exact on the list": ("#009E73", "d"),
    "lenient drafts": ("#F0E442", "D"),
    "certified": ("#0072B2", "o"),
}
BASE = "times_own_int8"


def panel(axes: Axes, title: str, rows: list[dict]) -> None:
    """One data set, one text at a time."""
    for group, (colour, shape) in LOOKS.items():
        own = [row for row in rows if row["group"] == group]
        if not own:
            continue
        x, y = [row[BASE]["median"] for row in own], [row["textual_loss"] for row in own]
        spread = [
            [row[BASE]["median"] - row[BASE]["p10"] for row in own],
            [row[BASE]["p90"] - row[BASE]["median"] for row in own],
        ]
        ringed = {"markeredgecolor": "#D55E00", "markeredgewidth": 2} if group == "certified" else {}
        size = 10 if group == "certified" else 7
        axes.errorbar(
            x, y, xerr=spread, fmt=shape, color=colour, markersize=size, label=group, elinewidth=0.8, **ringed
        )
        promised = sorted((row for row in own if row["promise"]), key=lambda row: row["textual_loss"])
        for number, row in enumerate(promised):  # points lie close: the lowest has its words below
            text, place = row["promise"].replace(", ", "\n"), (row[BASE]["median"], row["textual_loss"])
            words = (7, 7) if number else (7, -13)
            axes.annotate(text, place, xytext=words, textcoords="offset points", fontsize=7)
    axes.axvline(1, color="0.8", zorder=0)
    axes.set(title=title, xlabel="tokens per second, times int8 full depth of this engine")


def main() -> None:
    """Writes headline.png beside the results in a folder."""
    folder = Path(sys.argv[1])
    found = {name: read_json(folder / f"{name}.json") for name in TITLES}
    found = {name: result for name, result in found.items() if result is not None}
    figure, all_axes = panels(len(found), width=6.5 * len(found), height=4.8)
    for axes, (name, result) in zip(all_axes, found.items(), strict=True):
        panel(axes, TITLES[name], [row for row in result["rows"] if row["rows"] == 1])
    all_axes[0].set_ylabel("mean textual loss: 1 − ROUGE-L to float32 full depth's text")
    all_axes[0].legend(fontsize=8, loc="upper left")
    save(figure, folder / "headline.png")


if __name__ == "__main__":
    main()
