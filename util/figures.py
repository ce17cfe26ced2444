"""The figures that a run's result files allow: for reports, notebooks and scripts."""

from collections.abc import Iterator
from pathlib import Path

from matplotlib.figure import Figure

from early_exit.models.calibration_file import CALIBRATION_FILE
from util.calibration_plots import is_table_of, plot_delta, plot_losses
from util.confidence_plots import can_plot_confidence_time, plot_confidence_time, plot_reliability
from util.files import read_json
from util.plots import main_score, plot_exit_layers, plot_sweep
from util.run_folder import LOSS_TABLE_FILE, SWEEP_FILE


def run_figures(folder: Path) -> Iterator[tuple[str, Figure]]:
    """Captions and figures of whatever a run's folder holds."""
    sweep = read_json(folder / SWEEP_FILE)
    if sweep is not None:
        points = sweep["points"]
        if main_score(points) is not None:
            yield "Quality against mean decoder layers", plot_sweep(points)
            yield "Quality against time", plot_sweep(points, x="eval_ms_per_token")
        yield "Where tokens leave", plot_exit_layers(points)
        if can_plot_confidence_time(points):
            yield "What asking for confidence costs", plot_confidence_time(points)
    results = read_json(folder / "eval_results.json", default={})
    if "eval_heads" in results:
        yield "Reliability of exit heads", plot_reliability(results["eval_heads"])
    calibration = read_json(folder / CALIBRATION_FILE)
    if calibration is not None:
        table = read_json(folder / LOSS_TABLE_FILE)
        if is_table_of(table, calibration):
            figure = plot_losses(table["columns"], calibration)
            yield "Loss against layers: what was measured, and what is certified", figure
        yield "δ against the measured loss", plot_delta([calibration], "dissimilarity")
        yield "δ against the lowest certified threshold", plot_delta([calibration], "threshold")
        yield "δ against mean exit layer", plot_delta([calibration], "layers")
