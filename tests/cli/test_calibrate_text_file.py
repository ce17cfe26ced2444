"""`--calibrate_text_file`: what one calibration decoded serves another."""

import shutil

import pytest
import torch

from early_exit.models.loading import load_model
from tests.cli.conftest import call, eval_flags
from tests.cli.test_bad_input import fails_with
from tests.cli.test_calibration import cali_flags
from tests.processes import run_in_two
from trainers import loss_table
from util.files import read_json

GRID = ("--calibrate_grid", "verify=none,parallel,exact", "--thresholds", "1.0", "0.5", "0.1")
RISK = ("--consistency_type", "risk", "--calibrate_delta", ".9")


def columns_of(folder):
    return read_json(folder / "loss_table.json.gz")["columns"]


@pytest.fixture
def decoded(monkeypatch):
    """How many prompts each call for a loss table decodes."""
    counts, plain = [], loss_table.decode_prompts

    def counting(model, policy, precision, sources, *more, **options):
        counts.append(len(sources))
        return plain(model, policy, precision, sources, *more, **options)

    monkeypatch.setattr(loss_table, "decode_prompts", counting)
    return counts


def test_another_loss_decodes_nothing(decoded, model, tmp_path):
    kept = ("--calibrate_text_file", str(tmp_path / "t.sqlite"))
    assert call(*cali_flags(model, tmp_path / "first", *GRID, *kept)) == 0
    assert sum(decoded) > 12
    decoded.clear()
    assert call(*cali_flags(model, tmp_path / "second", *GRID, *RISK, *kept)) == 0
    assert decoded == []
    assert call(*cali_flags(model, tmp_path / "alone", *GRID, *RISK)) == 0
    assert sum(decoded) > 12
    assert columns_of(tmp_path / "second") == columns_of(tmp_path / "alone")


def test_tests_that_read_prompts_one_by_one_share_them_too(decoded, model, tmp_path):
    one = ("--thresholds", "1.0", "0.1", "--calibrate_test", "sequential", "--calibrate_delta", ".9")
    for folder in ("first", "second"):
        flags = [*cali_flags(model, tmp_path / folder, *one), "--calibrate_text_file", tmp_path / "t.sqlite"]
        assert call(*map(str, flags)) == 0
        assert (sum(decoded) > 0) == (folder == "first")
        decoded.clear()


def test_another_model_and_other_limits_have_texts_of_their_own(decoded, model, tmp_path):
    changed = shutil.copytree(model, tmp_path / "model", ignore=shutil.ignore_patterns("checkpoint-*"))
    weights = load_model(str(changed))
    weights.lm_head.weight.data[5] += 0.1 * torch.randn(weights.config.d_model)
    weights.save_pretrained(changed)
    few = ("--thresholds", "1.0", "0.1", "--calibrate_text_file", str(tmp_path / "t.sqlite"))
    shorter, cut = ("--generation_max_length", "6"), ("--max_source_length", "9")
    runs = [(model, ()), (changed, ()), (model, shorter), (model, cut)]
    for number, (checkpoint, more) in enumerate(runs):
        assert call(*cali_flags(checkpoint, tmp_path / str(number), *few, *more)) == 0
        assert sum(decoded) > 0, runs[number]  # prompts that are equal, as short ones are, are decoded once
        decoded.clear()


def test_two_processes_share_a_file(decoded, model, python, tmp_path):
    kept = ("--calibrate_text_file", str(tmp_path / "t.sqlite"))
    run_in_two(python, *cali_flags(model, tmp_path / "two", *kept))
    assert call(*cali_flags(model, tmp_path / "one", *kept)) == 0
    assert decoded == []
    losses = [[each["losses"] for each in columns_of(tmp_path / name)] for name in ("one", "two")]
    assert losses[0] == losses[1]


def test_bad_files_are_refused_before_anything_is_written(capsys, model, tmp_path):
    (tmp_path / "words").write_text("something else " * 99)
    kept = ("--calibrate_text_file", str(tmp_path / "words"))
    fails_with(capsys, cali_flags(model, tmp_path / "c", *kept), "words cannot be used")
    assert not (tmp_path / "c").exists()
    fails_with(capsys, eval_flags(model, tmp_path / "c", *kept), "--calibrate_text_file needs --do_cali True")
