"""Training of exit heads: nothing else changes, heads do not disturb each other, a step may be split."""

import json
import shutil
import subprocess

import pytest
import torch
from safetensors.torch import load_file
from transformers.utils import logging

from early_exit.models.loading import load_model
from tests.cli.conftest import DATA, QUIET, ROOT, call, eval_flags
from tests.cli.test_bad_input import fails_with
from tests.processes import run_in_two

HEADS = "vanilla_classifier,MLP,transformer_MLP_64"


def head_flags(model, output, heads, *more):
    return [
        *DATA, *QUIET, "--model_name_or_path", str(model), "--do_train", "--train_meta_cm_head",
        "--exit_conf_type", heads, "--max_train_samples", "64", "--max_steps", "4", "--dropout_rate", "0.3",
        "--per_device_train_batch_size", "8", "--output_dir", str(output), *more,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def together(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("heads") / "together"
    evaluate = ["--do_eval", "--max_eval_samples", "5", "--predict_with_generate"]
    assert call(*head_flags(model, folder, HEADS, *evaluate)) == 0
    return folder


def test_the_backbone_is_bit_identical(model, together):
    before, after = load_file(model / "model.safetensors"), load_file(together / "model.safetensors")
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert {name.split(".")[1] for name in set(after) - set(before)} == set(HEADS.split(","))


@pytest.mark.parametrize("name", HEADS.split(","))
def test_a_head_trained_among_others_is_the_head_trained_alone(model, together, tmp_path, name):
    assert call(*head_flags(model, tmp_path / "alone", name)) == 0
    alone, shared = (
        load_model(str(path)).exit_heads[name].state_dict() for path in (tmp_path / "alone", together)
    )
    for key, tensor in alone.items():
        torch.testing.assert_close(shared[key], tensor)


def test_accumulated_batches_train_as_one_batch(model, together, tmp_path):
    flags = ["--per_device_train_batch_size", "2", "--gradient_accumulation_steps", "4"]
    assert call(*head_flags(model, tmp_path / "split", "MLP", *flags)) == 0
    split, whole = (load_model(str(path)).exit_heads["MLP"] for path in (tmp_path / "split", together))
    for (key, tensor), (_, expected) in zip(split.named_parameters(), whole.named_parameters(), strict=True):
        torch.testing.assert_close(tensor, expected, atol=2e-4, rtol=1e-3, msg=key)
    assert split.seen.tolist() == whole.seen.tolist()


def test_the_report_is_by_head_and_layer(together):
    results = json.loads((together / "eval_results.json").read_text())
    assert set(results["eval_heads"]) == set(HEADS.split(","))
    for layers in results["eval_heads"].values():
        assert set(layers) == {"1", "2"}
        for quality in layers.values():
            assert 0 <= quality["agreement"] <= 1
            assert 0 <= quality["ece"] <= 1
            assert quality["auroc"] is None or 0 <= quality["auroc"] <= 1
            assert len(quality["reliability"]) == 10


def test_trained_heads_are_evaluated_side_by_side(together, tmp_path):
    flags = [
        "--use_early_exit",
        "True",
        "--exit_conf_type",
        f"{HEADS},oracle",
        "--exit_conf_threshold",
        "0.5",
        "1",
    ]
    assert call(*eval_flags(together, tmp_path / "sweep", *flags)) == 0
    points = json.loads((tmp_path / "sweep" / "sweep.json").read_text())["points"]
    assert [point["setting"] for point in points] == [
        f"{name} λ={threshold}" for name in [*HEADS.split(","), "oracle"] for threshold in ("0.5", "1.0")
    ]
    deepest = [point["metrics"]["eval_block_avg"] for point in points if point["setting"].endswith("λ=1.0")]
    assert deepest == [3.0] * 4


def test_a_shared_head_is_one_head(model, tmp_path):
    assert (
        call(
            *head_flags(
                model, tmp_path / "shared", "MLP", "--share_exit_head", "--exit_head_loss", "geometric"
            )
        )
        == 0
    )
    heads = load_model(str(tmp_path / "shared")).exit_heads["MLP"]
    assert len(heads.heads) == 1
    assert len(heads.seen) == 2


def test_two_processes_count_the_training_set_as_one_does(model, python, together, tmp_path):
    flags = head_flags(model, tmp_path / "two", "MLP", "--per_device_train_batch_size", "4")
    run_in_two(python, *flags)
    two, one = (load_model(str(path)).exit_heads["MLP"] for path in (tmp_path / "two", together))
    assert two.seen.tolist() == one.seen.tolist()
    assert two.agreed.tolist() == one.agreed.tolist()


@pytest.mark.parametrize(
    ("heads", "more", "message"),
    [
        ("transformer_MLP_0", [], "width '0' is not a whole number from 1 on"),
        ("transformer_MLP_64,softmax", [], "'softmax' has nothing to train; heads: vanilla_classifier"),
        ("oracle", [], "oracle looks at full depth"),
        (
            "MLP",
            ["--exit_head_loss", "geometrik"],
            "unknown --exit_head_loss 'geometrik'; known: independent",
        ),
    ],
)
def test_bad_flags_of_training(capsys, model, tmp_path, heads, more, message):
    fails_with(capsys, head_flags(model, tmp_path / "output", heads, *more), message)
    assert not (tmp_path / "output").exists()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (
            ["--exit_conf_type", "transformer_linear_64"],
            "it has: MLP, transformer_MLP_64, vanilla_classifier",
        ),
        (["--exit_conf_type", "MLP", "--share_exit_head"], "need --train_meta_cm_head"),
        (["--exit_conf_type", "oracle", "--do_predict"], "oracle looks at full depth"),
    ],
)
def test_bad_flags_of_evaluation(capsys, together, tmp_path, more, message):
    fails_with(capsys, eval_flags(together, tmp_path / "output", "--use_early_exit", "True", *more), message)
    assert not (tmp_path / "output").exists()


def test_exits_that_were_not_trained_are_warned_of(caplog, tmp_path, model):
    copy = shutil.copytree(model, tmp_path / "copy")
    config = json.loads((copy / "config.json").read_text())
    assert config.pop("exit_loss") == "weighted_ce"
    (copy / "config.json").write_text(json.dumps(config))
    logging.enable_propagation()
    with caplog.at_level("WARNING"):
        assert call(*head_flags(copy, tmp_path / "heads", "MLP")) == 0
    logging.disable_propagation()
    assert "does not say that its exits were trained" in caplog.text


def test_the_figures_of_a_comparison(together, python, tmp_path):
    flags = ["--use_early_exit", "True", "--exit_conf_type", f"softmax,{HEADS}", "--exit_conf_threshold"]
    output = tmp_path / "sweep"
    assert call(*eval_flags(together, output, *flags, "0.5", "1.0", "--deploy_scenario", "True")) == 0
    static = ["--static_exit_layer", "all", "--deploy_scenario", "True"]
    assert call(*eval_flags(together, output, *static)) == 0
    arguments = [output / "sweep.json", "--heads", together / "eval_results.json", "--folder", tmp_path]
    command = [python, "-m", "util.confidence_plots", *map(str, arguments)]
    assert subprocess.run(command, cwd=ROOT).returncode == 0
    drawn = sorted(path.stem for path in tmp_path.glob("*.png"))
    assert drawn == ["confidence_time", "layers", "reliability", "time"]
