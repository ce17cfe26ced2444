import subprocess
import sys

import pytest

from early_exit import DecodingSetting, ExitPolicy
from util.calibration_plots import is_table_of, plot_losses
from util.calibration_plots import main as draw_calibration
from util.confidence_plots import can_plot_confidence_time, plot_confidence_time
from util.figures import run_figures
from util.files import write_json
from util.plots import plot_sweep

POINTS = [
    {"setting": setting, "metrics": {"eval_block_avg": layers, "eval_rougeL": rouge}}
    for setting, layers, rouge in [
        ("static 2", 2.0, 60.0),
        ("static 1", 1.0, 40.0),
        ("softmax λ=0.9", 1.5, 61.0),
    ]
]


def test_a_line_for_each_kind_of_exit_in_order_of_depth():
    axes = plot_sweep(POINTS).axes[0]
    lines = {line.get_label(): [xy.tolist() for xy in line.get_data()] for line in axes.get_lines()}
    assert lines == {
        "static exits, layer": [[1.0, 2.0], [40.0, 60.0]],
        "softmax exits, λ": [[1.5], [61.0]],
    }
    assert [text.get_text() for text in axes.texts] == ["1", "2", "0.9"]


def test_drafts_are_a_line_of_their_own():
    drafts = {"setting": "static 1 exact ×6", "policy": {"verify": "exact"}}
    drafts["metrics"] = {"eval_block_avg": 3.0, "eval_rougeL": 62.0}
    lines = {line.get_label(): line.get_data() for line in plot_sweep([*POINTS, drafts]).axes[0].get_lines()}
    assert [axis.tolist() for axis in lines["exact drafts"]] == [[3.0], [62.0]]
    assert len(lines["static exits, layer"][0]) == 2


def test_exits_that_a_static_layer_ends_are_a_line_of_their_own():
    metrics = {"eval_block_avg": 1.2, "eval_rougeL": 50.0}
    axes = plot_sweep([*POINTS, {"setting": "softmax λ=0.5 last=2 N=9", "metrics": metrics}]).axes[0]
    lines = {line.get_label(): line.get_data()[0].tolist() for line in axes.get_lines()}
    assert lines["softmax exits, λ"] == [1.5]
    assert lines["softmax last=2 exits, λ"] == [1.2]
    assert [text.get_text() for text in axes.texts] == ["1", "2", "0.9", "0.5 N=9"]


@pytest.mark.parametrize(
    ("score", "name"),
    [("eval_rougeL", "ROUGE-L"), ("eval_bleu", "BLEU"), ("eval_f1", "F1 of answers"), ("eval_loss", None)],
)
def test_the_figures_of_a_sweep_show_the_score_of_its_task(tmp_path, score, name):
    metrics = {"eval_block_avg": 1.5, "eval_ms_per_token": 2.0, "eval_exit_layer_counts": [3, 1, 2]}
    points = [{"setting": f"static {layer}", "metrics": {**metrics, score: 9.0}} for layer in (1, 2)]
    write_json(tmp_path / "sweep.json", {"points": points})
    figures = dict(run_figures(tmp_path))
    quality = [figure for caption, figure in figures.items() if caption.startswith("Quality against")]
    assert [figure.axes[0].get_ylabel() for figure in quality] == ([] if name is None else 2 * [name])
    assert "Where tokens leave" in figures


def test_the_time_of_a_confidence_is_of_measures_that_are_asked_everywhere():
    counts = {"eval_exit_layer_counts": [0, 0, 9]}
    points = [
        {"setting": setting, "metrics": {"eval_ms_per_token": taken, **counts}}
        for setting, taken in [
            ("static 3", 3.0),
            ("softmax λ=1.0 last=2", 2.5),
            ("softmax λ=1.0 min=2", 3.5),
            ("softmax λ=1.0 max=1", 3.5),
            ("oracle λ=1.0", 9.0),
        ]
    ]
    assert not can_plot_confidence_time(points)
    points.append({"setting": "softmax λ=1.0", "metrics": {"eval_ms_per_token": 5.0, **counts}})
    assert can_plot_confidence_time(points)
    axes = plot_confidence_time(points).axes[0]
    assert [
        (text.get_text(), bar.get_width())
        for text, bar in zip(axes.get_yticklabels(), axes.patches, strict=True)
    ] == [("softmax", 1.0)]


@pytest.mark.slow
@pytest.mark.parametrize(("present", "code"), [(True, 0), (False, 2)])
def test_command_line(tmp_path, present, code):
    if present:
        write_json(tmp_path / "sweep.json", {"points": POINTS})
    command = [sys.executable, "-m", "util.plots", tmp_path / "sweep.json", tmp_path / "sweep.png"]
    assert subprocess.run(command, capture_output=True).returncode == code
    assert (tmp_path / "sweep.png").exists() == present


def column(losses, layers, verify=None, **policy):
    setting = DecodingSetting(ExitPolicy(measure="softmax", verify=verify, **policy), "int8")
    return {"setting": setting.to_dict(), "losses": losses, "layers": layers}


@pytest.fixture
def calibration():
    """A loss table of two ways of decoding, and a verdict for one of the settings and none for another δ."""
    columns = [
        column([0.0, 0.1], [6, 6], threshold=1.0),
        column([0.1, 0.3], [2, 4], threshold=0.5),
        column([0.0, 0.2], [2, 3], "parallel", threshold=0.5),
    ]
    common = {"speedup": 2.5, "setting": columns[2]["setting"]}
    deltas = [{"delta": 0.2, "certified": True, **common}, {"delta": 0.02, "certified": False, **common}]
    run = {"consistency": "textual", "loss": "rouge", "num_layers": 6, "fingerprint": "a", "deltas": deltas}
    return {"fingerprint": "a", "columns": columns}, run


def test_certified_settings_are_ringed_among_all_that_were_measured(calibration):
    table, run = calibration
    axes = plot_losses(table["columns"], run).axes[0]
    lines = {line.get_label(): [list(xy) for xy in line.get_data()] for line in axes.get_lines()}
    assert lines["softmax, int8"] == [[3, 6], [pytest.approx(0.2), 0.05]]
    assert lines["softmax parallel ×6, int8"] == [[2.5], [0.1]]
    (ring,) = [line for line in axes.get_lines() if line.get_fillstyle() == "none"]
    assert [list(xy) for xy in ring.get_data()] == [[2.5], [0.1]]
    assert [text.get_text() for text in axes.texts] == ["certified for δ = 0.2\n2.5 times float32 full depth"]
    levels = [line.get_ydata()[0] for line in axes.get_lines() if line.get_linestyle() == "--"]
    assert levels == [0.2, 0.02]


def test_a_loss_table_of_another_run_is_not_drawn(calibration, tmp_path, monkeypatch):
    table, run = calibration
    assert is_table_of(table, run)
    other = {**table, "fingerprint": "b"}
    assert not is_table_of(other, run)
    assert not is_table_of(None, run)
    older = {**run, "deltas": [{"delta": 0.2, "certified": True}]}
    assert not is_table_of(table, older)
    picture = tmp_path / "losses.png"
    monkeypatch.setattr(sys, "argv", ["calibration_plots", str(tmp_path), str(picture)])
    write_json(tmp_path / "calibration.json", run)
    write_json(tmp_path / "loss_table.json.gz", other)
    with pytest.raises(SystemExit) as refused:
        draw_calibration()
    assert refused.value.code == 2
    assert not picture.exists()
    write_json(tmp_path / "loss_table.json.gz", table)
    draw_calibration()
    assert picture.exists()
