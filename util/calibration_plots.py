"""Figures and tables of calibrations, from their calibration.json files alone."""

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from util.files import read_json
from util.results import markdown_table

Runs = list[dict[str, Any]]


def read_runs(folder: Path | str) -> Runs:
    """Every calibration.json one folder below, as `scripts/calibration_sweep.sh` leaves them.

    Raises FileNotFoundError where there is none.
    """
    runs = [read_json(path) for path in sorted(Path(folder).glob("*/calibration.json"))]
    if not runs:
        raise FileNotFoundError(f"no */calibration.json in {folder}: run scripts/calibration_sweep.sh")
    return runs


def select(runs: Runs, consistency: str, largest: bool = True) -> Runs:
    """Runs of "textual" or "risk" consistency; of each measure the one with most prompts, or all of the
    measure that has the most runs, by their number of prompts."""
    chosen = sorted((run for run in runs if run["consistency"] == consistency), key=prompts)
    if largest:
        return list({run["measure"]: run for run in chosen}.values())
    names = [run["measure"] for run in chosen]
    return [run for run in chosen if run["measure"] == max(names, key=names.count, default=None)]


def prompts(run: dict[str, Any]) -> int:
    """How many prompts a run calibrated with."""
    return run["deltas"][0]["n"]


def plot_delta(runs: Runs, value: str, label: str = "measure") -> Figure:
    """A quantity against δ, a line a run; δ that were not certified have no point.

    value: "dissimilarity", the mean loss of the check with its interval (of the calibration, where there was
    none to check with) and the diagonal that it should stay below; "layers"; or "threshold". label: what the
    legend tells runs apart by, "measure" or "n".
    """
    figure = Figure(figsize=(5, 3.8), layout="constrained")
    axes = figure.add_subplot()
    for run in runs:
        found = [entry for entry in run["deltas"] if entry["certified"]]
        found.sort(key=lambda entry: entry["delta"])
        name = run["measure"] if label == "measure" else f"n = {prompts(run)}"
        deltas = [entry["delta"] for entry in found]
        if value == "dissimilarity":
            checks = [_check(entry) for entry in found]
            errors = [[mean - low for mean, low, _ in checks], [high - mean for mean, _, high in checks]]
            axes.errorbar(deltas, [mean for mean, _, _ in checks], errors, marker="o", capsize=2, label=name)
        elif value == "layers":
            held_out = [entry for entry in found if entry["block_avg"] is not None]
            x = [entry["delta"] for entry in held_out]
            axes.plot(x, [entry["block_avg"] for entry in held_out], marker="o", label=name)
        else:
            axes.plot(deltas, [entry["threshold"] for entry in found], marker="o", label=name)
    if value == "dissimilarity":
        tested = [entry["delta"] for run in runs for entry in run["deltas"]]
        ends = [0, max(tested, default=1)]
        axes.plot(ends, ends, color="0.5", linestyle="--", linewidth=1, label="δ")
    axes.set_xlabel("δ")
    axes.set_ylabel(
        {"dissimilarity": "measured loss", "layers": "mean exit layer", "threshold": "lowest threshold λ"}[
            value
        ]
    )
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    return figure


def _check(entry: dict[str, Any]) -> tuple[float, float, float]:
    """Mean loss with the ends of its interval."""
    held_out = entry["held_out"]
    if held_out is None:
        return entry["mean_loss"], entry["mean_loss"], entry["mean_loss"]
    return held_out["mean"], held_out["low"], held_out["high"]


def plot_monitor(state: dict[str, Any]) -> Figure:
    """Mean audited loss and wealth of each day, of a monitor's state, with δ and the alarm's 1/ε."""
    figure = Figure(figsize=(6, 4.4), layout="constrained")
    losses, wealth = figure.subplots(2, 1, sharex=True)
    days = state["days"]
    dates = [day["date"] for day in days]
    losses.plot(dates, [day["mean_loss"] for day in days], marker="o", label="mean audited loss")
    losses.axhline(state["delta"], color="0.5", linestyle="--", label="δ")
    wealth.plot(dates, [day["wealth"] for day in days], marker="o", color="tab:red", label="wealth")
    wealth.axhline(1 / state["epsilon"], color="0.5", linestyle="--", label="alarm, 1/ε")
    wealth.set_yscale("log")
    for axes in (losses, wealth):
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    wealth.tick_params(axis="x", labelrotation=40 if len(days) > 4 else 0, labelsize=8)
    return figure


def naive_table(runs: Runs) -> str:
    """Thresholds that a search without a guarantee takes, beside the certified ones, as Markdown."""
    rows = [["measure", "consistency", "n", "how", "λ", "calibration loss", "held-out loss", "layers"]]
    for run in runs:
        common = [run["measure"], run["consistency"], str(prompts(run))]
        for naive in run["naive"]:
            how = f"naive, {naive['share']:.0%} of full quality"
            below = " or lower" if naive.get("cut_off") else ""  # where the table ends
            rows.append([*common, how, f"{naive['threshold']:g}{below}", f"{naive['mean_loss']:.3f}", "", ""])
        for entry in run["deltas"]:
            how = f"calibrated, δ = {entry['delta']:g}"
            if not entry["certified"]:
                rows.append([*common, how, "none", "", "", ""])
                continue
            check, layers = entry["held_out"], entry["block_avg"]
            rows.append(
                [
                    *common,
                    how,
                    f"{entry['threshold']:g}",
                    f"{entry['mean_loss']:.3f}",
                    "" if check is None else f"{check['mean']:.3f}",
                    "" if layers is None else f"{layers:.2f}",
                ]
            )
    return markdown_table(rows)
