import json

import pytest

from early_exit import ExitPolicy
from util.results import SweepTable, markdown_table, provenance, setting_name, table_rows, write_results

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
    assert [len(row) for row in table_rows([plain])] == [8, 8]
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
        "static 1,1.00,,33.33,,2.50,,",
        "static 2,1.00,,33.33,,2.50,,",
    ]
    assert (tmp_path / "sweep.md").read_text() == f"{again}\n"
