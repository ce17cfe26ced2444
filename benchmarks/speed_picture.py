"""The picture of `decode_speed.py`."""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot

_COLOURS = {
    "generate": "0.45",
    "ctranslate2": "tab:orange",
    "onnxruntime": "tab:green",
    "engine": "tab:blue",
}


def draw(rows: list[dict], path: Path) -> None:
    """Bars of the ratio to `generate`, a panel a batch."""
    rows = [row for row in rows if row["precision"] != "bfloat16" and row["system"] in _COLOURS]
    batches = sorted({row["batch"] for row in rows})
    figure, panels = pyplot.subplots(
        1, len(batches), figsize=(4 * len(batches) + 1.5, 5), sharey=True, squeeze=False
    )
    for panel, batch in zip(panels[0], batches, strict=True):
        shown = [row for row in rows if row["batch"] == batch]
        names = [
            f"{row['system']} {row['precision']}"
            + ("" if row["schedule"] == "full" else f", {row['schedule']}")
            for row in shown
        ]
        bars = panel.barh(
            names,
            [row["ratio_to_generate"] for row in shown],
            color=[_COLOURS[row["system"]] for row in shown],
        )
        panel.bar_label(bars, fmt="%.2f", padding=2, fontsize=8)
        panel.set(
            title=f"{rows[0]['shape']}, batch {batch}", xlabel="time per token / generate", xlim=(0, 1.15)
        )
        panel.grid(axis="x", alpha=0.3)
    panels[0][0].invert_yaxis()
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
