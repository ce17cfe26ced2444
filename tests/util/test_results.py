import csv
import json
import shutil
import sys
from pathlib import Path

import pytest

from early_exit import ExitPolicy
from util import results
from util.disturbed import disturbed
from util.results import SweepTable, markdown_table, provenance, setting_name, table_rows, write_results

ROOT = Path(__file__).parents[2]
METRICS = {"eval_rouge1": 1.0, "eval_rougeL": 33.333, "eval_block_avg": 2.5}


def test_results_merge_and_carry_their_source(tmp_path):
    source = provenance(seed=7, device="cpu")
    assert source["seed"] == 7
    assert source["versions"]["torch"].startswith("2.13")
    write_results(tmp_path, "train", {"train_loss": 2.0}, source)
    write_results(tmp_path, "eval", METRICS, source)
    assert json.loads((tmp_path / "eval_results.json").read_text()) == METRICS | source
    assert json.loads((tmp_path / "all_results.json").read_text()) == {"train_loss": 2.0} | METRICS | source


@pytest.mark.parametrize(
    ("policy", "name"),
    [
        (ExitPolicy(), "full depth"),
        (ExitPolicy(static_layer=3), "static 3"),
        (ExitPolicy(measure="softmax", threshold=0.9), "softmax λ=0.9"),
        (ExitPolicy(measure="softmax", threshold=0.9999999), "softmax λ=0.9999999"),
        (ExitPolicy(measure="softmax", threshold=0.5, min_layer=2), "softmax λ=0.5 min=2"),
        (ExitPolicy(measure="softmax", threshold=0.5, position_temperature=4.0), "softmax λ=0.5 τ=4"),
        (ExitPolicy(measure="softmax", threshold=0.5, top_k=20), "softmax λ=0.5 K=20"),
        (ExitPolicy(measure="softmax", threshold=0.5, static_layer=3), "softmax λ=0.5 last=3"),
        (ExitPolicy(measure="softmax", threshold=0.5, screen=True), "softmax λ=0.5 screened"),
        (ExitPolicy(screen=True), "full depth screened"),
    ],
)
def test_setting_names(policy, name):
    assert setting_name(policy) == name


def test_table_is_aligned():
    lines = markdown_table([["setting", "x"], ["a", "1.00"]]).splitlines()
    assert lines == ["| setting | x    |", "|---------|------|", "| a       | 1.00 |"]


def test_columns_that_few_points_have_are_shown_where_one_has_them():
    plain = {"setting": "a", "metrics": METRICS}
    kept = {"setting": "b", "metrics": {**METRICS, "eval_top_k_kept": 0.98765}}
    assert [len(row) for row in table_rows([plain])] == [6, 6]
    header, first, second = table_rows([plain, kept])
    assert (header[-1], first[-1], second[-1]) == ("kept", "", "0.988")


def test_a_sweep_remembers_its_points(tmp_path):
    one, two = ExitPolicy(static_layer=1), ExitPolicy(static_layer=2)
    table = SweepTable(tmp_path, {"seed": 1})
    table.add(one, METRICS)
    again = SweepTable(tmp_path, {"seed": 2})
    assert one in again
    assert two not in again
    again.add(two, METRICS)
    points = json.loads((tmp_path / "sweep.json").read_text())["points"]
    assert [(point["setting"], point["seed"]) for point in points] == [("static 1", 1), ("static 2", 2)]
    assert (tmp_path / "sweep.csv").read_text().splitlines()[1:] == [
        "static 1,1.00,33.33,2.50,,",
        "static 2,1.00,33.33,2.50,,",
    ]
    assert (tmp_path / "sweep.md").read_text() == f"{again}\n"


def timed(low, median, high, rouge=33.0, **more):
    """Metrics of an evaluation."""
    return {
        "eval_rougeL": rouge,
        "eval_ms_per_token": median,
        "eval_ms_per_token_p10": low,
        "eval_ms_per_token_p90": high,
        "eval_tokens_per_second": 1000 / max(median, 1e-9),
        **more,
    }


STEADY, SHAKEN = timed(2.0, 2.2, 2.6), timed(2.0, 2.4, 4.0)
STATIC, SHAKEN_STATIC = (
    timed(*times, eval_exit_layer_counts=[0, 9, 0]) for times in ((2, 2.1, 2.2), (2, 2.1, 4))
)
CHOSEN, SHAKEN_CHOSEN = (timed(*times, eval_exit_layer_counts=[4, 3, 2]) for times in ((1, 2, 3), (1, 2, 6)))


@pytest.mark.parametrize(
    ("times", "marks"),
    [
        ([], []),
        ([SHAKEN], [False]),  # nothing to compare with
        ([STEADY, SHAKEN], [False, True]),
        ([STEADY, STEADY, timed(2.0, 2.2, 3.8)], [False, False, False]),  # 1.9 is within 1.5 · 1.3
        ([timed(1.0, 2.0, 3.0)] * 3, [False] * 3),  # wide by nature
        ([METRICS, STEADY, SHAKEN, METRICS], [False, False, True, False]),  # written without spread
        ([METRICS], [False]),
        ([timed(0.0, 0.0, 0.0), STEADY], [False, False]),
        # By nature texts that choose their layers vary more than those that do not.
        ([STATIC, STATIC, STATIC, CHOSEN], [False] * 4),
        ([CHOSEN, STATIC, STATIC, CHOSEN, STATIC], [False] * 5),
        ([STATIC, STATIC, SHAKEN_STATIC, CHOSEN, CHOSEN], [False, False, True, False, False]),
        ([STATIC, CHOSEN, CHOSEN, SHAKEN_CHOSEN], [False, False, False, True]),
    ],
)
def test_points_stand_out_by_their_spread(times, marks):
    assert disturbed([{"setting": "any", "metrics": each} for each in times]) == marks


def test_disturbed_points_are_marked_and_timed_again(tmp_path):
    policies = [ExitPolicy(static_layer=layer) for layer in (1, 2, 3)]
    table = SweepTable(tmp_path, {"seed": 1})
    for policy, metrics in zip(policies, (STEADY, SHAKEN, STEADY), strict=True):
        table.add(policy, dict(metrics))
    assert "disturbed" in (tmp_path / "sweep.md").read_text()
    rows = list(csv.DictReader((tmp_path / "sweep.csv").open()))
    assert [row["note"] for row in rows] == ["", "disturbed", ""]
    assert [row["p90"] for row in rows] == ["2.60", "4.00", "2.60"]

    again = SweepTable(tmp_path, {"seed": 2})
    (policy,) = again.disturbed()
    assert policy == policies[1]
    again.retime(policy, timed(1.9, 2.1, 2.3, rouge=0.0))
    points = json.loads((tmp_path / "sweep.json").read_text())["points"]
    assert points[1]["metrics"] == timed(1.9, 2.1, 2.3)
    assert (points[1]["seed"], points[1]["retimed"]) == (1, {"seed": 2})
    assert all("retimed" not in point for point in (points[0], points[2]))
    assert again.disturbed() == []
    assert "note" not in (tmp_path / "sweep.csv").read_text()


def test_one_of_several_processes_writes(tmp_path):
    table = SweepTable(tmp_path, {}, writes=False)
    table.add(ExitPolicy(static_layer=1), METRICS)
    assert ExitPolicy(static_layer=1) in table
    assert list(tmp_path.iterdir()) == []


def test_points_are_told_apart_by_all_of_their_policy(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "setting_name", lambda policy: "one name for all")
    table = SweepTable(tmp_path, {})
    table.add(ExitPolicy(static_layer=1), METRICS)
    assert ExitPolicy(static_layer=2) not in table
    assert ExitPolicy(static_layer=1) in SweepTable(tmp_path, {})


@pytest.mark.parametrize(
    "file", sorted(ROOT.glob("benchmarks/results/**/sweep.json")), ids=lambda file: file.parent.name
)
def test_sweeps_of_earlier_runs_are_read(tmp_path, file):
    points = json.loads(file.read_text())["points"]
    shutil.copy(file, tmp_path / "sweep.json")
    table = SweepTable(tmp_path, {})
    assert all(point["setting"] in str(table) for point in points)
    assert table.disturbed() == []
    assert any(ExitPolicy(static_layer=layer) in table for layer in range(1, 13))


def test_a_module_is_named_as_it_is_typed(monkeypatch):
    script = Path(results.__file__).parents[1] / "benchmarks" / "headline.py"
    monkeypatch.setattr(sys, "argv", [str(script), "save/my model"])
    assert results.provenance(0, "cpu")["command"] == "python -m benchmarks.headline 'save/my model'"
    monkeypatch.setattr(sys, "argv", ["run_summarization.py", "--do_eval"])
    assert results.provenance(0, "cpu")["command"] == "python run_summarization.py --do_eval"
