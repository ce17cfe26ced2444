"""Objectives by their flags."""

import json

import pytest
import torch
from safetensors.torch import load_file

from tests.cli.conftest import call
from tests.cli.test_bad_input import fails_with
from tests.cli.test_training import EVALUATES, check_going_on, more_flags

ALL = [
    "ce",
    "layerskip_ce",
    "kd_logits",
    "shallowdeep_ce",
    "shallowdeep_kd_last",
    "shallowdeep_kd_unif",
    "shallowdeep_kd_dyna",
]
SHARE = ["--exit_propagation", "0.5"]
LAST = ["--intermediate_loss_fn", "shallowdeep_kd_last", "--shallow_exit_layer", "1"]


@pytest.mark.parametrize("name", ALL)
def test_every_objective_trains(model, tmp_path, name):
    more = ["--intermediate_loss_fn", name, "--max_steps", "2", "--logging_steps", "1"]
    more += ["--shallow_exit_layer", "2"] if name.startswith("shallow") else []
    more += ["--distill_layer_alpha", "0.7"] if "kd" in name else []
    more += ["--exit_loss_scale", "0.2", "--layer_dropout", "0.5"] if name == "layerskip_ce" else []
    more += ["--distill_temperature", "2"] if name == "kd_logits" else []
    assert call(*more_flags(model, tmp_path, *more)) == 0
    assert json.loads((tmp_path / "config.json").read_text())["exit_loss"] == name
    history = json.loads((tmp_path / "trainer_state.json").read_text())["log_history"]
    reported = {key for key in history[0] if key.startswith("exit_")}
    trained = [2, 3] if name.startswith("shallow") else [1, 2, 3]
    assert reported == {f"exit_{layer}_loss" for layer in trained}


def test_the_transformation_is_trained_and_not_kept(model, tmp_path):
    flags = [*LAST, "--do_layer_transformation", "True", "--save_steps", "2", *EVALUATES]
    assert call(*more_flags(model, tmp_path / "o", *flags, "--deploy_scenario", "True")) == 0
    saved = load_file(tmp_path / "o" / "model.safetensors")
    assert set(saved) == set(load_file(model / "model.safetensors"))
    assert "exit_transformation" not in json.loads((tmp_path / "o" / "config.json").read_text())
    beside = load_file(tmp_path / "o" / "checkpoint-4" / "model.safetensors")
    width = len(beside["exit_transformation.bias"])
    assert not torch.equal(beside["exit_transformation.weight"], torch.eye(width))


def test_exit_propagation_changes_what_is_learned(model, tmp_path):
    weights = []
    for name, more in (("plain", []), ("half", SHARE), ("again", SHARE)):
        assert call(*more_flags(model, tmp_path / name, "--max_steps", "2", *more)) == 0
        weights.append(load_file(tmp_path / name / "model.safetensors"))
    plain, half, again = weights
    assert sum(not torch.equal(weight, half[name]) for name, weight in plain.items()) > 20
    assert all(torch.equal(weight, again[name]) for name, weight in half.items())


@pytest.mark.parametrize(("name", "layers"), [("rotational", [1, 2, 1, 2]), ("gradual", [2, 1, 1, 1])])
def test_a_curriculum_chooses_the_exits_of_each_step(model, tmp_path, name, layers):
    more = ["--intermediate_loss_fn", "layerskip_ce", "--exit_loss_curriculum", name, "--logging_steps", "1"]
    assert call(*more_flags(model, tmp_path, *more)) == 0
    history = json.loads((tmp_path / "trainer_state.json").read_text())["log_history"]
    first = [min(int(key.split("_")[1]) for key in entry if key.startswith("exit_")) for entry in history[:4]]
    assert first == layers
    assert all("exit_3_loss" in entry for entry in history[:4])


def test_a_run_with_a_transformation_goes_on_as_it_was(model, tmp_path, monkeypatch):
    check_going_on(model, tmp_path, monkeypatch, *LAST, "--do_layer_transformation", "True")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (
            ["--intermediate_loss_fn", "kd"],
            "unknown --intermediate_loss_fn 'kd'; known: weighted_ce, ce, layer",
        ),
        (["--intermediate_loss_fn", "last_ce"], "unknown --intermediate_loss_fn 'last_ce'"),
        (["--intermediate_loss_fn", "shallowdeep_ce"], "needs a shallow layer (--intermediate_loss_fn, --sh"),
        ([*LAST, "--shallow_exit_layer", "0"], "shallow layer 0 is outside 1 to 2"),
        ([*LAST, "--shallow_exit_layer", "3"], "shallow layer 3 is outside 1 to 2"),
        ([*LAST, "--distill_layer_alpha", "-1"], "alpha -1.0 is outside [0, inf]"),
        (
            ["--intermediate_loss_fn", "kd_logits", "--distill_layer_alpha", "2"],
            "alpha 2.0 is outside [0, 1]",
        ),
        (
            ["--intermediate_loss_fn", "kd_logits", "--distill_temperature", "0"],
            "temperature 0.0 is not above",
        ),
        (
            ["--distill_layer_alpha", "0.5"],
            "--distill_layer_alpha has no effect without --intermediate_loss_fn",
        ),
        ([*LAST, "--distill_temperature", "2"], "no effect without --intermediate_loss_fn kd_logits"),
        (["--do_layer_transformation"], "no effect without --intermediate_loss_fn shallowdeep_kd_last or"),
        (["--exit_propagation", "1.5"], "--exit_propagation 1.5 is outside [0, 1]"),
        (["--exit_propagation", "nan"], "--exit_propagation nan is outside [0, 1]"),
        ([*SHARE, "--gradient_checkpointing"], "--exit_propagation keeps all activations"),
        ([*SHARE, "--do_train", "False", "--do_eval"], "--exit_propagation needs --do_train"),
        (["--layer_dropout", "1.5"], "--layer_dropout 1.5 is outside [0, 1]"),
        (["--exit_loss_curriculum", "round"], "unknown --exit_loss_curriculum 'round'; known: none, rot"),
        ([*LAST, "--exit_loss_curriculum", "gradual"], "no exits to choose from in shallowdeep_kd_last"),
        (
            ["--exit_loss_scale", "1"],
            "--exit_loss_scale has no effect without --intermediate_loss_fn",
        ),
        (
            ["--intermediate_loss_fn", "layerskip_ce", "--exit_loss_scale", "-1"],
            "scale -1.0 is outside",
        ),
        (["--shallow_exit_layer", "1"], "--shallow_exit_layer has no effect without --use_shallow_deep True"),
    ],
)
def test_bad_flags(capsys, model, tmp_path, more, message):
    fails_with(capsys, more_flags(model, tmp_path / "o", *more), message)
    assert not (tmp_path / "o").exists()
