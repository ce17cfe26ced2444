import subprocess
import sys

import pytest

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


@pytest.mark.slow
@pytest.mark.parametrize(("present", "code"), [(True, 0), (False, 2)])
def test_command_line(tmp_path, present, code):
    if present:
        write_json(tmp_path / "sweep.json", {"points": POINTS})
    command = [sys.executable, "-m", "util.plots", tmp_path / "sweep.json", tmp_path / "sweep.png"]
    assert subprocess.run(command, capture_output=True).returncode == code
    assert (tmp_path / "sweep.png").exists() == present
