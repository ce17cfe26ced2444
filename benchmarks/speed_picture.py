"""The picture of `decode_speed.py`."""

from pathlib import Path

from benchmarks.drawing import panels, save

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
    figure, all_axes = panels(len(batches), width=4 * len(batches) + 1.5, height=5, sharey=True)
    for axes, batch in zip(all_axes, batches, strict=True):
        shown = [row for row in rows if row["batch"] == batch]
        names = [
            f"{row['system']} {row['precision']}"
            + ("" if row["schedule"] == "full" else f", {row['schedule']}")
            for row in shown
        ]
        bars = axes.barh(
            names,
            [row["ratio_to_generate"] for row in shown],
            color=[_COLOURS[row["system"]] for row in shown],
        )
        axes.bar_label(bars, fmt="%.2f", padding=2, fontsize=8)
        axes.set(
            title=f"{rows[0]['shape']}, batch {batch}", xlabel="time per token / generate", xlim=(0, 1.15)
        )
        axes.grid(visible=False, axis="y")
    all_axes[0].invert_yaxis()
    save(figure, path)
