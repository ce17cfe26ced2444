"""Draws docs/images/method.png: exits, drafts, and calibration, with made-up values.

python docs/draw_method.py
"""

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from util.exit_colours import exit_colour, text_on

LAYERS = 6
TOKENS = ["The", "Eagle", "is", "a", "coffee", "shop", "near", "the", "river", "."]
EXITS = [3, 2, 1, 1, 6, 1, 3, 1, 4, 1]
BLOCKS = [(0, 4), (5, 8), (9, 9)]  # drafts that are checked together, first and last
THRESHOLDS = [1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2]
BOUNDS = [0.0, 0.02, 0.035, 0.05, 0.068, 0.088, 0.115, 0.15, 0.2]
DELTA = 0.1


def main() -> None:
    """Draws and writes the picture."""
    figure = Figure(figsize=(12.5, 3.7), layout="constrained")
    exits, drafts, calibration = figure.subplots(1, 3, width_ratios=[1.1, 1.1, 0.8])
    draw_exits(exits)
    draw_drafts(drafts)
    draw_calibration(calibration)
    figure.savefig(Path(__file__).with_name("images") / "method.png", dpi=110)


def draw_exits(axes: Axes) -> None:
    """A column a token: layers that it runs, and those that it skips."""
    _grid(axes, "1  Exits: a token leaves at the first layer\nwhose confidence exceeds the threshold λ")
    for place, layer in enumerate(EXITS):
        for above in range(layer + 1, LAYERS + 1):
            _cell(axes, place, above, "white", linestyle=":", edge="0.6")
    axes.text(
        len(TOKENS) / 2, LAYERS + 0.75, "dotted: layers not run", ha="center", fontsize=8.5, color="0.35"
    )


def draw_drafts(axes: Axes) -> None:
    """The same, with the deeper layers of a block's tokens run together."""
    _grid(
        axes,
        "2  Drafts: the deeper layers run later, for a block of\ntokens at once, and may check the tokens",
    )
    for first, last in BLOCKS:
        for place in range(first, last + 1):
            for above in range(EXITS[place] + 1, LAYERS + 1):
                _cell(axes, place, above, "#e9e9e9", edge="0.75")
        axes.add_patch(
            Rectangle((first - 0.02, 0.46), last - first + 0.94, LAYERS + 0.08, fill=False, linewidth=1.8)
        )
    axes.text(
        len(TOKENS) / 2,
        LAYERS + 0.75,
        "grey: run once for a framed block",
        ha="center",
        fontsize=8.5,
        color="0.35",
    )


def draw_calibration(axes: Axes) -> None:
    """The bound of the mean loss by threshold, and the lowest that stays below δ."""
    certified = max(number for number, bound in enumerate(BOUNDS) if bound <= DELTA)
    axes.set_title(
        "3  Calibration: the lowest λ whose loss\nis at most δ with probability 1 − ε", fontsize=11
    )
    axes.plot(THRESHOLDS, BOUNDS, color="0.3", marker="o", markersize=4, label="upper bound of the mean loss")
    axes.axhline(DELTA, color="0.5", linestyle="--", linewidth=1)
    axes.text(0.98, DELTA + 0.006, "δ", fontsize=12)
    axes.plot(
        THRESHOLDS[certified], BOUNDS[certified], "o", markersize=12, fillstyle="none", color="tab:blue"
    )
    axes.annotate(
        "certified λ", (THRESHOLDS[certified], BOUNDS[certified]), xytext=(-12, 22),
        textcoords="offset points", color="tab:blue", ha="right", fontsize=10,
    )  # fmt: skip
    axes.invert_xaxis()
    axes.set_xlabel("threshold λ  (lower: earlier exits)")
    axes.set_ylabel("loss against full depth's text")
    axes.legend(loc="upper left", fontsize=8.5)


def _grid(axes: Axes, title: str) -> None:
    for place, layer in enumerate(EXITS):
        colour = exit_colour(layer, LAYERS)
        for below in range(1, layer + 1):
            _cell(axes, place, below, [value / 255 for value in colour])
        axes.text(
            place + 0.45, layer, str(layer), ha="center", va="center", fontsize=9,
            color=[value / 255 for value in text_on(colour)],
        )  # fmt: skip
    axes.set_xlim(-0.15, len(TOKENS))
    axes.set_ylim(0.3, LAYERS + 1.1)
    axes.set_xticks([place + 0.45 for place in range(len(TOKENS))], TOKENS, fontsize=9, rotation=35)
    axes.set_yticks(range(1, LAYERS + 1))
    axes.set_ylabel("decoder layer")
    axes.set_title(title, fontsize=11)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def _cell(axes: Axes, place: int, layer: int, colour, edge: str = "white", linestyle: str = "-") -> None:
    axes.add_patch(
        Rectangle((place, layer - 0.46), 0.9, 0.92, facecolor=colour, edgecolor=edge, linestyle=linestyle)
    )


if __name__ == "__main__":
    main()
