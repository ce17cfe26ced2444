"""The look that the benchmarks' figures share: drawn without a display, laid out so that nothing overlaps."""

from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

_DOTS_PER_INCH = 120
_MARGIN = 0.08  # inches around each panel


def panels(
    columns: int, rows: int = 1, *, width: float, height: float, **options: Any
) -> tuple[Figure, list[Axes]]:
    """A figure of rows × columns panels, and these row by row. width, height: of all, in inches. options: of
    `Figure.subplots`."""
    figure = Figure(figsize=(width, height), layout="constrained")
    figure.get_layout_engine().set(w_pad=_MARGIN, h_pad=_MARGIN)
    all_axes = figure.subplots(rows, columns, squeeze=False, **options)
    for axes in all_axes.flat:
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_axisbelow(True)
        axes.grid(alpha=0.3)
    return figure, list(all_axes.flat)


def save(figure: Figure, path: Path) -> None:
    """As a picture."""
    figure.savefig(path, dpi=_DOTS_PER_INCH)
