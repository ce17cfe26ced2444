"""Training of exit adapters from the command line: the model stays as it is, a run goes on, bad flags."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from early_exit.models.loading import load_model
from tests.cli.conftest import DATA, QUIET, call, eval_flags, train_flags
from tests.cli.test_bad_input import fails_with


def adapter_flags(model, output, *more):
    return [
        *DATA, *QUIET, "--model_name_or_path", str(model), "--do_train", "--train_exit_adapters",
        "--max_train_samples", "64", "--max_steps", "6", "--dropout_rate", "0.3", "--learning_rate", "1e-2",
        "--per_device_train_batch_size", "8", "--output_dir", str(output), *more,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def adapted(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("adapters") / "adapted"
    evaluate = ["--do_eval", "--max_eval_samples", "5", "--predict_with_generate"]
    assert call(*adapter_flags(model, folder, *evaluate)) == 0
    return folder


def test_the_model_is_bit_identical_and_the_adapters_have_moved(model, adapted):
    before, after = load_file(model / "model.safetensors"), load_file(adapted / "model.safetensors")
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert set(after) - set(before) == {"exit_adapters.changes"}
    assert (after["exit_adapters.changes"].flatten(1).norm(dim=1) > 0).all()


def test_the_report_has_agreement_before_and_after(adapted):
    results = json.loads((adapted / "eval_results.json").read_text())
    for name in ("eval_agreement", "eval_agreement_before"):
        assert len(results[name]) == 2
        assert all(0 <= share <= 1 for share in results[name])


def test_an_interrupted_run_goes_on_as_if_nothing_had_been(model, adapted, tmp_path):
    flags = adapter_flags(model, tmp_path / "run", "--save_steps", "3", "--exit_adapter_rank", "4")
    assert call(*flags) == 0
    whole = load_model(str(tmp_path / "run")).exit_adapters.matrices()
    last = tmp_path / "run" / "checkpoint-3"
    again = [*flags, "--overwrite_output_dir", "--resume_from_checkpoint", str(last)]
    assert call(*again) == 0
    torch.testing.assert_close(load_model(str(tmp_path / "run")).exit_adapters.matrices(), whole)


def test_accumulated_batches_train_as_one_batch(model, adapted, tmp_path):
    flags = ["--per_device_train_batch_size", "2", "--gradient_accumulation_steps", "4"]
    assert call(*adapter_flags(model, tmp_path / "split", *flags)) == 0
    split, whole = (load_model(str(path)).exit_adapters for path in (tmp_path / "split", adapted))
    torch.testing.assert_close(split.matrices(), whole.matrices(), atol=2e-3, rtol=1e-2)


def test_heads_train_on_top_and_decode(adapted, tmp_path):
    flags = [
        *DATA, *QUIET, "--model_name_or_path", str(adapted), "--do_train", "--train_meta_cm_head",
        "--exit_conf_type", "MLP", "--max_train_samples", "8", "--max_steps", "1",
        "--output_dir", str(tmp_path / "heads"),
    ]  # fmt: skip
    assert call(*flags) == 0
    tensors = load_file(tmp_path / "heads" / "model.safetensors")
    own = load_file(adapted / "model.safetensors")
    assert torch.equal(tensors["exit_adapters.changes"], own["exit_adapters.changes"])
    exits = ["--use_early_exit", "True", "--exit_conf_type", "MLP", "--exit_conf_threshold", "0.5"]
    assert call(*eval_flags(tmp_path / "heads", tmp_path / "eval", *exits)) == 0


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--exit_adapter_rank", "0"], "--exit_adapter_rank 0 is too small; allowed: 1 and above"),
        (["--exit_adapter_rank", "9999"], "rank 9999 of exit adapters is outside 1 to"),
        (["--train_meta_cm_head", "--exit_conf_type", "MLP"], "--train_meta_cm_head contradict each other"),
        (["--output_hidden_states_decoder", "True"], "--output_hidden_states_decoder contradict each other"),
        (["--use_lora", "True"], "--use_lora needs --do_train, and trains the model rather than"),
    ],
)
def test_bad_flags_of_training(capsys, model, tmp_path, more, message):
    fails_with(capsys, adapter_flags(model, tmp_path / "output", *more), message)
    assert not (tmp_path / "output").exists()


def test_bad_uses(capsys, model, adapted, tmp_path):
    output = tmp_path / "output"
    rank = eval_flags(model, output, "--exit_adapter_rank", "2")
    fails_with(capsys, rank, "--exit_adapter_rank has no effect without --train_exit_adapters True")
    fails_with(capsys, eval_flags(model, output, "--train_exit_adapters"), "needs --do_train")
    fresh = [*train_flags(output)[:-12], "--train_exit_adapters", "--output_dir", str(output)]
    fails_with(capsys, fresh, "give --model_name_or_path")
    joint = train_flags(output)
    joint[joint.index("--model_shape") : joint.index("--do_train")] = ["--model_name_or_path", str(adapted)]
    fails_with(capsys, joint, "the model has exit adapters, which training of the model itself")
    assert not output.exists()


def test_adapters_of_another_model(capsys, adapted, tmp_path):
    copy = shutil.copytree(adapted, tmp_path / "copy")
    tensors = load_file(copy / "model.safetensors")
    name = "decoder.block.0.layer.0.SelfAttention.q.weight"
    save_file(tensors | {name: tensors[name] + 1}, copy / "model.safetensors", {"format": "pt"})
    fails_with(capsys, eval_flags(copy, tmp_path / "o"), "exit adapters were trained on a model with other")
    smaller = tensors["exit_adapters.changes"][:, :8, :8].contiguous()
    save_file(tensors | {"exit_adapters.changes": smaller}, copy / "model.safetensors", {"format": "pt"})
    fails_with(
        capsys, eval_flags(copy, tmp_path / "o"), "the weights have other shapes than its configuration says"
    )
