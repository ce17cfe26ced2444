"""Training through the entry point: checkpoints in half types, runs that diverge, what a run goes on from,
and which checkpoint is the best."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import T5ForConditionalGeneration

from early_exit.models.loading import load_model
from tests.cli.conftest import DATA, QUIET, call, train_flags
from tests.cli.test_bad_input import fails_with
from trainers.joint import JointTrainer
from trainers.stable import StableTrainer

PLATEAU = ["--lr_scheduler_type", "reduce_lr_on_plateau"]
EVALUATES = [
    "--predict_with_generate",
    "--eval_strategy",
    "steps",
    "--eval_steps",
    "2",
    "--max_eval_samples",
    "3",
]


def more_flags(model, output, *more):
    """Trains a checkpoint further, as `train_flags` does."""
    flags = train_flags(output, "--model_name_or_path", str(model), *more)
    place = flags.index("--model_shape")
    return flags[:place] + flags[place + 2 :]


def check_going_on(model, tmp_path, monkeypatch, *more):
    """A run that is interrupted at its fourth step, and started again, ends with the weights of one that is
    not."""
    flags = [*more, "--save_steps", "2"]
    assert call(*more_flags(model, tmp_path / "whole", *flags)) == 0
    compute = JointTrainer.compute_loss

    def stop(self, *args, **kwargs):
        if self.state.global_step == 3:
            raise KeyboardInterrupt
        return compute(self, *args, **kwargs)

    monkeypatch.setattr(JointTrainer, "compute_loss", stop)
    with pytest.raises(KeyboardInterrupt):
        call(*more_flags(model, tmp_path / "parts", *flags))
    monkeypatch.undo()
    assert call(*more_flags(model, tmp_path / "parts", *flags)) == 0
    whole, parts = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "parts"))
    assert all(torch.equal(weight, parts[name]) for name, weight in whole.items())


def head_flags(model, output, *more):
    return [
        *DATA, *QUIET, "--model_name_or_path", str(model), "--do_train", "--train_meta_cm_head",
        "--exit_conf_type", "MLP,transformer_MLP_64", "--max_train_samples", "64", "--max_steps", "4",
        "--output_dir", str(output), *more,
    ]  # fmt: skip


@pytest.fixture(params=[torch.float16, torch.bfloat16], ids=str)
def half_model(request, model, tmp_path):
    """The trained model in a half type, as transformers saves it."""
    folder = tmp_path / "half"
    shutil.copytree(model, folder, ignore=shutil.ignore_patterns("checkpoint-*"))
    T5ForConditionalGeneration.from_pretrained(model).to(request.param).save_pretrained(folder)
    assert {weight.dtype for weight in load_file(folder / "model.safetensors").values()} == {request.param}
    return folder


def test_a_half_checkpoint_is_trained_and_saved_in_float32(half_model, tmp_path):
    start = load_file(half_model / "model.safetensors")
    assert call(*more_flags(half_model, tmp_path / "o", "--learning_rate", "1e-6", "--save_steps", "2")) == 0
    for folder in (tmp_path / "o", tmp_path / "o" / "checkpoint-2"):
        assert json.loads((folder / "config.json").read_text())["dtype"] == "float32"
        for name, weight in load_file(folder / "model.safetensors").items():
            if name == "token_ranking":
                continue
            assert weight.dtype == torch.float32
            assert torch.isfinite(weight).all()
            if name in ("shared.weight", "decoder.block.0.layer.1.EncDecAttention.q.weight"):
                assert (weight != start[name].float()).float().mean() > 0.9, name


def test_heads_of_a_half_checkpoint_are_trained_and_saved_in_float32(half_model, tmp_path):
    assert call(*head_flags(half_model, tmp_path / "o", "--do_eval", "--max_eval_samples", "3")) == 0
    start, after = (load_file(path / "model.safetensors") for path in (half_model, tmp_path / "o"))
    for name, weight in after.items():
        if name in start:
            assert weight.dtype == torch.float32
            assert torch.equal(weight, start[name].float())
    model = load_model(str(tmp_path / "o"))
    model.check_exit_heads("MLP")
    model.to(next(iter(start.values())).dtype).check_exit_heads("MLP")  # of the checkpoint that it came from


def spoil(patch, step, times=float("nan")):
    """Makes the loss of one step NaN."""
    compute = JointTrainer.compute_loss

    def compute_loss(self, *args, **kwargs):
        loss = compute(self, *args, **kwargs)
        return loss * times if self.state.global_step == step else loss

    patch.setattr(JointTrainer, "compute_loss", compute_loss)


def test_a_run_that_diverges_ends_with_a_line_and_keeps_what_was_good(capsys, monkeypatch, tmp_path):
    flags = train_flags(tmp_path, "--save_steps", "1")
    assert call(*flags) == 0
    good = (tmp_path / "model.safetensors").read_bytes()
    spoil(monkeypatch, 2)
    fails_with(capsys, [*flags, "--overwrite_output_dir"], "training stopped at step 3: the loss is nan")
    assert (tmp_path / "model.safetensors").read_bytes() == good
    assert sorted(path.name for path in tmp_path.glob("checkpoint-*")) == ["checkpoint-1", "checkpoint-2"]
    assert not json.loads((tmp_path / "run.json").read_text())["finished"]
    assert not list(tmp_path.glob(".saving-*"))
    monkeypatch.undo()
    assert call(*flags) == 0  # goes on from the last good checkpoint
    assert (tmp_path / "model.safetensors").read_bytes() == good


def test_a_last_step_that_diverges_is_not_saved(capsys, tmp_path):
    assert call(*train_flags(tmp_path)) == 0
    good = (tmp_path / "model.safetensors").read_bytes()
    wild = ["--learning_rate", "1e38", "--weight_decay", "1e5", "--lr_scheduler_type", "constant"]
    flags = train_flags(tmp_path, *wild, "--max_steps", "1", "--overwrite_output_dir")
    fails_with(capsys, flags, "numbers that are not finite: the model is not saved")
    assert (tmp_path / "model.safetensors").read_bytes() == good


def test_a_checkpoint_that_is_not_finite_is_not_trained(capsys, model, tmp_path):
    broken = shutil.copytree(model, tmp_path / "broken")
    weights = load_file(broken / "model.safetensors")
    weights["shared.weight"][5] = float("nan")
    save_file(weights, broken / "model.safetensors", {"format": "pt"})
    fails_with(capsys, more_flags(broken, tmp_path / "o"), "training stopped at step 1: the loss is nan")
    assert not (tmp_path / "o" / "model.safetensors").exists()


def state_of(folder):
    return json.loads((folder / "trainer_state.json").read_text())


@pytest.mark.parametrize(
    "asked", [[], ["--metric_for_best_model", "block_avg"], ["--metric_for_best_model", "eval_rouge1"]]
)
def test_the_best_model_is_the_best_by_a_metric_that_there_is(tmp_path, asked):
    flags = [
        *EVALUATES,
        "--load_best_model_at_end",
        "True",
        "--save_strategy",
        "steps",
        "--save_steps",
        "2",
        *asked,
    ]
    assert call(*train_flags(tmp_path, *flags)) == 0
    state = state_of(tmp_path)
    metric = (asked[1] if asked else "rougeL").removeprefix("eval_")
    best = min if metric == "block_avg" else max
    values = [entry[f"eval_{metric}"] for entry in state["log_history"] if f"eval_{metric}" in entry]
    assert len(values) == 2
    assert state["best_metric"] == best(values)
    of_best = load_file(f"{state['best_model_checkpoint']}/model.safetensors")
    saved = load_file(tmp_path / "model.safetensors")
    assert all(torch.equal(weight, saved[name]) for name, weight in of_best.items())


def test_without_generation_the_best_model_has_the_lowest_loss(tmp_path):
    flags = [flag for flag in EVALUATES if flag != "--predict_with_generate"]
    more = ["--load_best_model_at_end", "True", "--save_strategy", "steps", "--save_steps", "2"]
    assert call(*train_flags(tmp_path, *flags, *more)) == 0
    losses = [entry["eval_loss"] for entry in state_of(tmp_path)["log_history"] if "eval_loss" in entry]
    assert state_of(tmp_path)["best_metric"] == min(losses)


@pytest.mark.parametrize("generates", [True, False])
def test_a_schedule_may_follow_a_metric(tmp_path, generates):
    flags = [flag for flag in EVALUATES if generates or flag != "--predict_with_generate"]
    kwargs = [
        "--lr_scheduler_kwargs",
        '{"patience": 0, "factor": 0.5, "threshold": 10, "threshold_mode": "abs"}',
    ]
    more = [
        "--lr_scheduler_type",
        "reduce_lr_on_plateau",
        *kwargs,
        "--max_steps",
        "6",
        "--logging_steps",
        "1",
    ]
    assert call(*train_flags(tmp_path, *flags, *more)) == 0
    rates = [
        entry["learning_rate"] for entry in state_of(tmp_path)["log_history"] if "learning_rate" in entry
    ]
    # No evaluation is better than the first by 10: from the second on, each halves the rate.
    assert rates[0] == pytest.approx(1e-3)
    assert rates[-1] < rates[0]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--save_strategy", "best"], "need evaluations in training"),
        ([*EVALUATES, "--metric_for_best_model", "loss"], "'loss' is not measured with --predict"),
        ([*EVALUATES, "--metric_for_best_model", "bleu"], "'bleu' is not measured"),
        ([*EVALUATES[1:], "--metric_for_best_model", "rougeL"], "is not measured without --predict"),
        (
            [*EVALUATES, *PLATEAU, "--metric_for_best_model", "eval_loss"],
            "'eval_loss' is not measured",
        ),
    ],
)  # fmt: skip
def test_a_metric_that_there_is_not_is_named_before_training(capsys, tmp_path, more, message):
    fails_with(capsys, train_flags(tmp_path / "o", *more), message)
    assert not (tmp_path / "o").exists()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run of six steps, with a checkpoint after every second."""
    folder = tmp_path_factory.mktemp("run") / "six"
    assert call(*train_flags(folder, "--save_steps", "2", "--max_steps", "6")) == 0
    return folder


def test_a_run_goes_on_from_a_checkpoint_of_another_folder(run, tmp_path):
    flags = ["--max_steps", "6", "--resume_from_checkpoint", str(run / "checkpoint-4"), "--save_steps", "1"]
    assert call(*train_flags(tmp_path, *flags)) == 0
    assert sorted(path.name for path in tmp_path.glob("checkpoint-*")) == ["checkpoint-5", "checkpoint-6"]
    ended, expected = (load_file(folder / "model.safetensors") for folder in (tmp_path, run))
    for name, weight in expected.items():
        assert torch.equal(ended[name], weight), name


def test_true_goes_on_and_false_starts_anew(monkeypatch, tmp_path):
    started, train = [], StableTrainer.train
    monkeypatch.setattr(
        StableTrainer, "train", lambda self, **kwargs: started.append(kwargs) or train(self, **kwargs)
    )
    flags = train_flags(tmp_path, "--save_steps", "2")
    with pytest.MonkeyPatch.context() as patch:
        spoil(patch, 3)
        assert call(*flags) == 2
    assert call(*flags, "--resume_from_checkpoint", "True") == 0
    assert call(*flags, "--resume_from_checkpoint", "False", "--overwrite_output_dir") == 0
    checkpoints = [kwargs["resume_from_checkpoint"] for kwargs in started]
    assert checkpoints == [None, str(tmp_path / "checkpoint-2"), None]


def _without(name):
    return lambda folder: (folder / name).unlink()


def _truncate(name):
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:100])


@pytest.mark.parametrize(
    ("spoil_folder", "message"),
    [
        (shutil.rmtree, "no such folder"),
        (_without("trainer_state.json"), "not a checkpoint of a training run"),
        (_without("optimizer.pt"), "which holds optimizer.pt"),
        (_without("model.safetensors"), "holds no model.safetensors"),
        (_truncate("model.safetensors"), "cannot be read"),
        (_truncate("optimizer.pt"), "cannot be read"),
        (lambda folder: (folder / "trainer_state.json").write_text("{"), "cannot be read"),
        (lambda folder: (folder / "trainer_state.json").write_text("[]"), "cannot be read"),
    ],
)  # fmt: skip
def test_a_checkpoint_that_is_none_is_named(capsys, run, tmp_path, spoil_folder, message):
    folder = shutil.copytree(run / "checkpoint-2", tmp_path / "checkpoint-2")
    spoil_folder(folder)
    flags = train_flags(tmp_path / "o", "--resume_from_checkpoint", str(folder))
    fails_with(capsys, flags, message)
    assert not (tmp_path / "o").exists()


def test_a_checkpoint_that_does_not_fit_is_named(capsys, run, model, tmp_path):
    checkpoint = ["--resume_from_checkpoint", str(run / "checkpoint-4")]
    other = train_flags(tmp_path / "o", *checkpoint, "--model_shape", "small", "--max_steps", "6")
    fails_with(capsys, other, "another model's: ")
    other = train_flags(tmp_path / "o", *checkpoint, "--tokenizer_vocab_size", "300", "--max_steps", "6")
    fails_with(capsys, other, "another model's: ")
    fails_with(
        capsys, head_flags(model, tmp_path / "o", *checkpoint, "--max_steps", "6"), "another model's: "
    )
    done = train_flags(tmp_path / "o", *checkpoint, "--max_steps", "4")
    fails_with(capsys, done, "it has reached step 4 of --max_steps 4")
    for more, message in (
        (["--learning_rate", "5e-2"], "with initial_lr 0.001; this run asks for 0.05"),
        (["--weight_decay", "0.5"], "with weight_decay 0.0; this run asks for 0.5"),
        (["--adam_beta2", "0.9"], "with betas"),
        (["--optim", "adafactor"], "with eps 1e-08; this run asks for (1e-30, 0.001)"),
        (["--optim", "sgd"], "with momentum missing"),
        (["--optim", "sgd", "--optim_args", "momentum=0.9"], "with momentum missing"),
    ):
        other = train_flags(tmp_path / "o", *checkpoint, "--max_steps", "6", *more)
        fails_with(capsys, other, message)
    evaluates = [
        flag for flag in more_flags(model, tmp_path / "o", *checkpoint, "--do_eval") if flag != "--do_train"
    ]
    fails_with(capsys, evaluates, "--resume_from_checkpoint has no effect without --do_train")
    fails_with(capsys, train_flags(tmp_path / "o", "--resume_from_checkpoint", "True"), "holds no checkpoint")
    assert not (tmp_path / "o").exists()
    used = shutil.copytree(run, tmp_path / "used")
    before = sorted(path.name for path in used.iterdir())
    fails_with(capsys, train_flags(used, "--resume_from_checkpoint", "True", "--max_steps", "6"), "not empty")
    assert sorted(path.name for path in used.iterdir()) == before


def test_heads_go_on_from_a_checkpoint(capsys, model, tmp_path):
    assert call(*head_flags(model, tmp_path / "a", "--max_steps", "6", "--save_steps", "4")) == 0
    flags = ["--max_steps", "6", "--resume_from_checkpoint", str(tmp_path / "a" / "checkpoint-4")]
    assert call(*head_flags(model, tmp_path / "b", *flags)) == 0
    whole, resumed = (load_file(tmp_path / name / "model.safetensors") for name in "ab")
    for name, weight in whole.items():
        torch.testing.assert_close(resumed[name], weight)
    fails_with(capsys, head_flags(model, tmp_path / "c", *flags, "--learning_rate", "0.5"), "with initial_lr")


def test_a_head_goes_on_beside_others_that_stay_as_they_are(model, tmp_path):
    assert call(*head_flags(model, tmp_path / "others", "--max_steps", "1", "--save_strategy", "no")) == 0
    another = ["--exit_conf_type", "vanilla_classifier", "--max_steps", "2"]
    assert call(*head_flags(tmp_path / "others", tmp_path / "a", *another, "--save_steps", "1")) == 0
    resumed = ["--resume_from_checkpoint", str(tmp_path / "a" / "checkpoint-1")]
    assert call(*head_flags(tmp_path / "others", tmp_path / "b", *another, *resumed)) == 0
    whole, again, before = (load_file(tmp_path / name / "model.safetensors") for name in ("a", "b", "others"))
    for name, weight in whole.items():
        torch.testing.assert_close(again[name], weight)
    assert all(torch.equal(whole[name], weight) for name, weight in before.items())
