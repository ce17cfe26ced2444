"""Top-k propagation and the screened LM head from the command line."""

import csv
import json
import os
import subprocess

import pytest

from early_exit.linear import has_native
from tests.cli.conftest import DATA, ROOT, call, eval_flags
from tests.cli.test_bad_input import fails_with
from tests.processes import run_in_two
from util.files import read_json

SOFTMAX = ["--use_early_exit", "True", "--exit_conf_type", "softmax", "--exit_conf_threshold", "0.02"]


def results(folder):
    return json.loads((folder / "all_results.json").read_text())


@pytest.mark.parametrize("precision", ["float32", "int8", "w8a8"])
def test_a_screened_head_evaluates_as_the_whole_one(model, tmp_path, precision):
    folders = {name: tmp_path / name for name in ("whole", "screened")}
    for name, folder in folders.items():
        more = ["--engine_precision", precision, "--lm_head_screen", str(name == "screened")]
        assert call(*eval_flags(model, folder, *SOFTMAX, *more)) == 0
    whole, screened = map(results, folders.values())
    assert "eval_screen_fell_back" not in whole
    if has_native("cpu"):
        assert 0 <= screened["eval_screen_fell_back"] <= 1
    else:  # torch's kernels have no screen: the whole head is read, with a warning
        assert "eval_screen_fell_back" not in screened
    if precision == "float32":  # in int8 the whole head is an int8 one
        for name in ("eval_rougeL", "eval_block_avg", "eval_gen_len"):
            assert screened[name] == whole[name]


def test_the_sweep_of_k_and_its_picture(model, python, tmp_path):
    """As people call it; K is scaled to the model's vocabulary."""
    settings = {
        "MODEL": model, "OUTPUT_DIR": tmp_path / "topk", "MAX_EVAL_SAMPLES": 2, "MAX_TARGET_LENGTH": 12,
        "EVAL_BATCH_SIZE": 2, "PYTHON": python, "THRESHOLDS": "1.0 0.02",
    }  # fmt: skip
    environment = os.environ | {name: str(value) for name, value in settings.items()}
    command = ["bash", "topk_run_file.sh", "--use_cpu", "--report_to", "none"]
    subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True)
    rows = list(csv.DictReader((tmp_path / "topk" / "sweep.csv").open()))
    vocabulary = json.loads((model / "config.json").read_text())["vocab_size"]
    ks = [f" K={round(k * vocabulary / 32128)}" for k in (2000, 10000, 20000)]
    names = ["static 3"]
    for threshold in ("1.0", "0.02"):
        names += [f"softmax λ={threshold}{k}" for k in ("", *ks)]
    assert [row["setting"] for row in rows] == names
    assert all(0 < float(row["kept"]) <= 1 for row in rows if "K=" in row["setting"])
    assert all(row["kept"] == "" for row in rows if "K=" not in row["setting"])
    assert (tmp_path / "topk" / "confidence_time.png").stat().st_size > 1000


def test_one_setting_of_k(model, python, tmp_path):
    settings = {
        "MODEL": model, "OUTPUT_DIR": tmp_path / "k", "MAX_EVAL_SAMPLES": 2, "MAX_TARGET_LENGTH": 12,
        "TOP_K": 7, "THRESHOLD": 0.02, "PYTHON": python,
    }  # fmt: skip
    environment = os.environ | {name: str(value) for name, value in settings.items()}
    command = ["bash", "scripts/topk_propagation_eval.sh", "--use_cpu", "--report_to", "none"]
    subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True)
    assert 0 < results(tmp_path / "k")["eval_top_k_kept"] <= 1


def test_two_processes_count_what_one_counts(model, python, tmp_path):
    flags = [*SOFTMAX, "--top_propagation", "3", "--per_device_eval_batch_size", "1"]
    assert call(*eval_flags(model, tmp_path / "one", *flags)) == 0
    run_in_two(python, *eval_flags(model, tmp_path / "two", *flags))
    one, two = results(tmp_path / "one"), results(tmp_path / "two")
    assert one["eval_top_k_kept"] == two["eval_top_k_kept"]


def test_k_is_a_knob_of_calibration(model, tmp_path):
    flags = [
        *DATA, "--report_to", "none", "--use_cpu", "--model_name_or_path", str(model), "--do_cali", "True",
        "--use_early_exit", "True", "--predict_with_generate", "--max_calibrate_samples", "12",
        "--max_predict_samples", "4", "--calibrate_delta", "0.9", "--thresholds", "1", "0.12",
        "--calibrate_epsilon", "0.3",  # λ = 1 with K is no full depth: it is tested, on 12 prompts
        "--calibrate_grid", "top_propagation=none,100",
        "--output_dir", str(tmp_path / "c"),
    ]  # fmt: skip
    assert call(*flags) == 0
    found = json.loads((tmp_path / "c" / "calibration.json").read_text())["deltas"][0]
    assert found["certified"]
    columns = read_json(tmp_path / "c" / "loss_table.json.gz")["columns"]
    assert [column["setting"]["top_k"] for column in columns] == [None, None, None, 100, 100]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--top_propagation", "5"], "--top_propagation has no effect without --use_early_exit"),
        ([*SOFTMAX, "--top_propagation", "0"], "0 propagated tokens; allowed: 1 and above"),
        ([*SOFTMAX, "--top_propagation", "2.5"], "'2.5' is neither a whole number nor 'none'"),
        ([*SOFTMAX, "--top_propagation", "401"], "401 propagated tokens, of a vocabulary of"),
        (
            ["--use_early_exit", "True", "--exit_conf_type", "entropy", "--top_propagation", "5"],
            "top-k propagation goes with the measure softmax, not with 'entropy'",
        ),
        ([*SOFTMAX, "--top_propagation", "5", "--lm_head_screen", "True"], "exclude each other"),
        (["--lm_head_screen", "True"], "--lm_head_screen has no effect without"),
    ],
)
def test_bad_flags(capsys, model, tmp_path, flags, message):
    fails_with(capsys, eval_flags(model, tmp_path / "output", *flags), message)
    assert not (tmp_path / "output").exists()
