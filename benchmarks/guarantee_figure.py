"""The figure of `guarantee.py`: does each promise hold, and what does it buy."""

from pathlib import Path

from matplotlib.axes import Axes

from benchmarks.drawing import panels, save

_SHOWN = ("bound", "test", "knobs", "promise")


def draw(rows: list[dict], epsilon: float, path: Path) -> None:
    """Above: violations of every line, with two standard errors; below: layers against n, where a table says
    how many run."""
    figure, (top, bottom) = panels(1, 2, width=11, height=9.5)
    _violations(top, rows, epsilon)
    _layers(bottom, rows)
    save(figure, path)


def _violations(axes: Axes, rows: list[dict], epsilon: float) -> None:
    names = list(dict.fromkeys(_name(row) for row in rows))
    for row in rows:
        unpromised = any(word in row["what"] for word in ("naive", "reordered", "full ε", "expectation"))
        axes.errorbar(
            names.index(_name(row)),
            row["violation_rate"],
            yerr=2 * row["standard_error"],
            fmt="s" if unpromised else "o",
            markersize=4,
            color="tab:red" if unpromised else "tab:blue",
            alpha=0.5,
        )
    axes.axhline(epsilon, color="0.3", linestyle="--", label=f"ε = {epsilon:g}")
    axes.plot([], [], "o", color="tab:blue", label="promised to stay below ε")
    axes.plot([], [], "s", color="tab:red", label="not promised")
    axes.set_xticks(range(len(names)), names, rotation=50, ha="right", fontsize=7)
    axes.set_yscale("symlog", linthresh=0.01)
    axes.set_ylim(-0.001, 1)
    axes.set_ylabel("share of draws that violate")
    axes.grid(visible=False, axis="x")
    axes.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.01, 1))


def _layers(axes: Axes, rows: list[dict]) -> None:
    shown = [row for row in rows if row["kind"] in _SHOWN and "layers" in row]
    styles = dict(zip(_SHOWN, ("-", "--", "-.", ":"), strict=True))
    for kind, what, delta in dict.fromkeys((row["kind"], row["what"], row["delta"]) for row in shown):
        own = [row for row in shown if (row["kind"], row["what"], row["delta"]) == (kind, what, delta)]
        label = f"{what}, δ = {delta:g}"
        sizes, layers = [row["n"] for row in own], [row["layers"] for row in own]
        axes.plot(sizes, layers, styles[kind], marker=".", label=label)
    axes.set_xlabel("prompts to calibrate with")
    axes.set_ylabel("mean decoder layers of what is certified")
    axes.set_xscale("log")
    sizes = sorted({row["n"] for row in shown})
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.minorticks_off()
    axes.legend(fontsize=7, loc="center left", bbox_to_anchor=(1.01, 0.5))


def _name(row: dict) -> str:
    return f"{row['kind']}: {row['what']}"
