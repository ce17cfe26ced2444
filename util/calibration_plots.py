"""Figures and tables of calibrations, from their result files alone.

python -m util.calibration_plots save/calibration losses.png
"""

import argparse
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

from matplotlib.figure import Figure

from early_exit import DecodingSetting
from early_exit.models.calibration_file import CALIBRATION_FILE
from util.files import read_json
from util.results import markdown_table, setting_name
from util.run_folder import LOSS_TABLE_FILE

Runs = list[dict[str, Any]]


def read_runs(folder: Path | str) -> Runs:
    """Every calibration.json one folder below, as `scripts/calibration_sweep.sh` leaves them.

    Raises FileNotFoundError where there is none.
    """
    runs = [read_json(path) for path in sorted(Path(folder).glob(f"*/{CALIBRATION_FILE}"))]
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
            asked = [entry for entry in found if entry["measure"] is not None]
            x = [entry["delta"] for entry in asked]
            axes.plot(x, [entry["threshold"] for entry in asked], marker="o", label=name)
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


def is_table_of(table: dict[str, Any] | None, run: dict[str, Any]) -> bool:
    """Whether a loss table's file is what a calibration.json was made from, and not of an unfinished run
    after it, of another loss, or of a version that did not name settings."""
    named = all("setting" in entry for entry in run["deltas"])
    about = ("fingerprint", "consistency", "loss")
    return table is not None and named and all(table.get(name, run[name]) == run[name] for name in about)


def plot_losses(columns: list[dict[str, Any]], run: dict[str, Any]) -> Figure:
    """Mean loss against layers, of every setting that a calibration measured: a line a way of decoding, over
    its thresholds; certified settings are ringed, with their promise and speed.

    columns: of a loss table's file; run: its calibration.json.
    """
    figure = Figure(figsize=(6.4, 5), layout="constrained")
    axes = figure.add_subplot()
    places = {
        DecodingSetting.from_dict(column["setting"]): (mean(column["layers"]), mean(column["losses"]))
        for column in columns
    }
    ways: dict[str, list[tuple[float, float]]] = {}
    for setting, place in places.items():
        ways.setdefault(_way(setting), []).append(place)
    for number, (name, line) in enumerate(ways.items()):
        axes.plot(*zip(*sorted(line), strict=True), marker="osvDP^X*"[number % 8], markersize=5, label=name)
    for entry in run["deltas"]:
        axes.axhline(entry["delta"], color="0.7", linestyle="--", linewidth=1, zorder=0)
        place = places.get(DecodingSetting.from_dict(entry["setting"])) if entry["certified"] else None
        if place is None:
            continue
        axes.plot(*place, "o", markersize=13, fillstyle="none", color="tab:red", markeredgewidth=2)
        speed = "" if entry["speedup"] is None else f"\n{entry['speedup']:.1f} times float32 full depth"
        axes.annotate(
            f"certified for δ = {entry['delta']:g}{speed}",
            place,
            xytext=(8, 10),
            textcoords="offset points",
            fontsize=8,
            bbox={"color": "white", "alpha": 0.8, "pad": 1},
            ha="right" if place[0] > run["num_layers"] / 2 else "left",
        )
    axes.set_xlabel("mean decoder layers read for a token")
    axes.set_ylabel(f"mean {run['consistency']} loss ({run['loss']})")
    axes.set_xlim(left=0)
    axes.grid(alpha=0.3)
    figure.legend(fontsize=8, loc="outside lower center", ncols=2)
    return figure


def _way(setting: DecodingSetting) -> str:
    """A setting without its threshold, as tables call it."""
    name = setting_name(replace(setting.policy, threshold=1.0))
    return f"{name.replace(' λ=1.0', '')}, {setting.precision}"


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
                    "none" if entry["measure"] is None else f"{entry['threshold']:g}",
                    f"{entry['mean_loss']:.3f}",
                    "" if check is None else f"{check['mean']:.3f}",
                    "" if layers is None else f"{layers:.2f}",
                ]
            )
    return markdown_table(rows)


def main() -> None:
    """Draws what a calibration's folder holds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="of a calibration")
    parser.add_argument("picture", type=Path, help="where the picture goes: .png, .svg or .pdf")
    options = parser.parse_args()
    run, table = read_json(options.folder / CALIBRATION_FILE), read_json(options.folder / LOSS_TABLE_FILE)
    if run is None or not is_table_of(table, run):
        parser.error(f"{options.folder} holds no {CALIBRATION_FILE} with its {LOSS_TABLE_FILE}")
    plot_losses(table["columns"], run).savefig(options.picture, dpi=160)


if __name__ == "__main__":
    main()
