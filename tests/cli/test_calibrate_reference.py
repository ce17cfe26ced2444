"""`--calibrate_reference`: a promise about another checkpoint's texts."""

import json
import shutil
import sys

import pytest
import torch
from rouge_score.rouge_scorer import RougeScorer
from transformers import AutoTokenizer, T5ForConditionalGeneration

import run_monitor
from early_exit.models.loading import load_model
from tests.cli.conftest import call, eval_flags
from tests.cli.test_bad_input import fails_with
from tests.cli.test_calibration import cali_flags
from util.files import read_json

FEW = ("--thresholds", "1.0", "0.1")
WIDE = ("--calibrate_delta", ".97")  # passes whatever is lost


@pytest.fixture(scope="module")
def other(model, tmp_path_factory):
    """A checkpoint with the same tokenizer that writes other texts."""
    folder = tmp_path_factory.mktemp("other") / "model"
    shutil.copytree(model, folder, ignore=shutil.ignore_patterns("checkpoint-*"))
    weights = load_model(str(folder))
    torch.manual_seed(5)
    for parameter in weights.parameters():
        parameter.data += 0.02 * torch.randn_like(parameter)
    weights.save_pretrained(folder)
    return folder


def columns_of(folder):
    columns = read_json(folder / "loss_table.json.gz")["columns"]
    return {each["setting"]["threshold"] if each["setting"]["measure"] else None: each for each in columns}


def full_text(folder, tokenizer, document: str, max_length: int) -> str:
    """By transformers' own model and loop."""
    plain = T5ForConditionalGeneration.from_pretrained(folder).eval()
    inputs = tokenizer(document, return_tensors="pt")
    return tokenizer.decode(
        plain.generate(**inputs, max_length=max_length, use_cache=False)[0], skip_special_tokens=True
    )


def test_losses_are_against_the_other_models_texts(capsys, model, other, tmp_path):
    """Full depth too is tested: its losses are what transformers' `generate` on both checkpoints gives."""
    flags = cali_flags(model, tmp_path / "c", *FEW, *WIDE, "--calibrate_reference", str(other))
    assert call(*flags) == 0
    printed = capsys.readouterr().out
    result = json.loads((tmp_path / "c" / "calibration.json").read_text())
    found, columns, length = result["deltas"][0], columns_of(tmp_path / "c"), result["pipeline"]["max tokens"]
    tokenizer, scorer = AutoTokenizer.from_pretrained(model), RougeScorer(["rougeL"], use_stemmer=False)
    prompts = read_json(tmp_path / "c" / "texts.json.gz")["prompts"]
    texts = read_json(tmp_path / "c" / "texts.json.gz")["settings"]
    deep = next(each for each in texts if each["full_depth"] and each["losses"] is not None)
    for prompt, loss in list(zip(prompts, deep["losses"], strict=True))[:3]:
        own, there = (full_text(each, tokenizer, prompt["document"], length) for each in (model, other))
        assert loss == pytest.approx(1 - scorer.score(there, own)["rougeL"].fmeasure, abs=1e-6)
    assert columns[1.0]["losses"] == columns[None]["losses"]
    assert min(sum(deep["losses"]), sum(columns[1.0]["losses"])) > 0
    assert (found["certified"], found["threshold"], found["by_construction"]) == (True, 0.1, False)
    assert f"against full depth of {other}" in found["promised"]
    assert f"against full depth of {other}) ≤ 0.97" in printed
    assert result["exit_calibration"]["reference"] == str(other)
    assert result["reference"]["name"] == str(other)


def test_full_depth_may_be_what_is_certified(model, other, tmp_path):
    """It is deployed like any setting, and a monitor, which knows full depth alone, refuses it."""
    flags = cali_flags(model, tmp_path / "c", "--thresholds", "1.0", *WIDE)
    assert call(*flags, "--calibrate_reference", str(other)) == 0
    found = json.loads((tmp_path / "c" / "calibration.json").read_text())["deltas"][0]
    assert (found["certified"], found["only_full_depth"], found["threshold"]) == (True, False, 1.0)
    certified = load_model(str(model), calibration=tmp_path / "c")
    assert certified.config.exit_calibration["setting"]["threshold"] == 1.0
    monitor = ["--model_name_or_path", str(model), "--calibration", str(tmp_path / "c")]
    monitor += ["--file", "none.json", "--state", str(tmp_path / "state.json")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["run_monitor.py", *monitor])
        assert run_monitor.main() == 2


def test_nothing_passes_against_texts_that_full_depth_does_not_write(capsys, model, other, tmp_path):
    flags = cali_flags(model, tmp_path / "c", *FEW, "--calibrate_delta", ".01")
    assert call(*flags, "--calibrate_reference", str(other)) == 0
    assert "NOT CERTIFIED. softmax, no setting keeps the mean textual loss" in capsys.readouterr().out
    result = json.loads((tmp_path / "c" / "calibration.json").read_text())
    assert result["exit_calibration"] is None
    assert len(columns_of(tmp_path / "c")) == 2  # full depth failed: no threshold below it is looked at


def test_the_model_itself_as_reference_loses_what_it_loses_without(model, tmp_path):
    """One by one, too; and exact drafts are tested, not taken as lossless."""
    grid = ("--calibrate_grid", "verify=none,exact")
    for name, more in (("plain", ()), ("itself", ("--calibrate_reference", str(model)))):
        assert call(*cali_flags(model, tmp_path / name, *FEW, *WIDE, *grid, *more)) == 0
    plain, itself = (
        read_json(tmp_path / name / "loss_table.json.gz")["columns"] for name in ("plain", "itself")
    )
    assert [each["losses"] for each in itself] == [each["losses"] for each in plain]
    found = json.loads((tmp_path / "itself" / "calibration.json").read_text())["deltas"][0]
    assert (found["by_construction"], found["n"]) == (False, 12)
    flags = cali_flags(model, tmp_path / "one", *FEW, *WIDE, "--calibrate_test", "sequential")
    assert call(*flags, "--calibrate_reference", str(model)) == 0
    losses = json.loads((tmp_path / "one" / "sequential.json").read_text())["losses"]
    assert losses[0] == itself[1]["losses"][: len(losses[0])]
    assert losses[1] == itself[2]["losses"][: len(losses[1])]
    assert min(map(len, losses)) > 0


def test_another_reference_is_another_attempt(capsys, model, other, tmp_path):
    """And a run does not go on with the losses against the first one."""
    place = shutil.copytree(model, tmp_path / "model", ignore=shutil.ignore_patterns("checkpoint-*"))
    for number, reference in enumerate((place, other), start=1):
        more = (*FEW, *WIDE, "--calibrate_reference", str(reference))
        assert call(*cali_flags(place, tmp_path / str(number), *more)) == 0
        result = json.loads((tmp_path / str(number) / "calibration.json").read_text())
        assert result["attempt"]["number"] == number
    state = json.loads((tmp_path / "2" / "sweep_run.json").read_text())
    (tmp_path / "2" / "sweep_run.json").write_text(json.dumps({**state, "finished": False}))
    fails_with(
        capsys,
        cali_flags(place, tmp_path / "2", *FEW, *WIDE, "--calibrate_reference", str(place)),
        "with other settings: reference",
    )


def test_what_is_no_reference_is_refused(capsys, model, other, tmp_path):
    output = tmp_path / "output"
    fails_with(
        capsys,
        cali_flags(model, output, "--calibrate_reference", str(tmp_path / "absent")),
        "--calibrate_reference",
    )
    changed = shutil.copytree(other, tmp_path / "changed")
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.add_tokens(["another"])
    tokenizer.save_pretrained(changed)
    fails_with(
        capsys,
        cali_flags(model, output, "--calibrate_reference", str(changed)),
        "its tokenizer is not that of",
    )
    flags = eval_flags(model, output, "--calibrate_reference", str(other))
    fails_with(capsys, flags, "--calibrate_reference needs --do_cali")
    assert not output.exists()
