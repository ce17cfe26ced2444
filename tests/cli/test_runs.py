"""Whole runs of the entry point, and the command lines that people have in their shell history."""

import csv
import json
import signal
import subprocess
import time

import pytest
from transformers import AutoTokenizer, T5ForConditionalGeneration

from tests.cli.conftest import ROOT, call, eval_flags, train_flags

# The common flags of the seed's commands; paths, model and data set are ours.
SEED_COMMON = [
    "--dataset_name", "embedded", "--dataset_config_name", "3.0.0", "--overwrite_output_dir",
    "--predict_with_generate", "--source_prefix", "summarize: ",
]  # fmt: skip
EARLY = ["--use_early_exit", "True", "--exit_conf_type", "softmax"]
SHORT = ["--report_to", "none", "--disable_tqdm", "True", "--use_cpu"]


def results(folder, name="all"):
    return json.loads((folder / f"{name}_results.json").read_text(encoding="utf-8"))


def test_training_leaves_a_plain_t5_and_results_with_their_source(model):
    T5ForConditionalGeneration.from_pretrained(model)
    AutoTokenizer.from_pretrained(model)
    content = results(model)
    assert content == results(model, "train")
    assert content["train_loss"] > 0
    assert content["seed"] == 42
    assert content["command"].startswith("python run_summarization.py --dataset_name embedded")
    assert {"torch", "transformers", "datasets"} <= set(content["versions"])
    assert "commit" in content


def test_the_seeds_training_command(tmp_path, model):
    assert call(
        *SEED_COMMON, *SHORT, "--model_name_or_path", str(model), "--output_dir", str(tmp_path),
        "--do_train", "--per_device_train_batch_size", "4", "--per_device_eval_batch_size", "16",
        "--save_steps", "5383", "--learning_rate", "1e-4", "--num_train_epochs", "3",
        "--output_hidden_states_decoder", "True", "--intermediate_loss_fn", "weighted_ce",
        "--max_train_samples", "8",
    ) == 0  # fmt: skip
    assert results(tmp_path)["epoch"] == 3


@pytest.mark.parametrize(
    ("flags", "counts_fit"),
    [
        (["--static_exit_layer", "2"], lambda counts: counts[0] == counts[2] == 0 < counts[1]),
        (
            [*EARLY, "--exit_conf_threshold", "0.9", "--static_exit_layer", "2"],
            lambda counts: counts[2] == 0 < counts[1],
        ),
        (
            [*EARLY, "--exit_conf_threshold", "0", "--exit_min_layer", "0"],
            lambda counts: counts[0] > 0,
        ),
        (
            [*EARLY, "--exit_conf_threshold", "0", "--exit_min_layer", "2"],
            lambda counts: counts[0] == 0 < counts[1],
        ),
        (
            [*EARLY, "--exit_conf_threshold", "0.9", "--exit_min_layer", "100", "--exit_position_temp", "4"],
            lambda counts: counts[0] == counts[1] == 0 < counts[2],
        ),
    ],
)
def test_the_seeds_evaluation_commands(tmp_path, model, flags, counts_fit):
    (tmp_path / "notes.txt").write_text("kept")
    assert call(
        *SEED_COMMON, *SHORT, "--model_name_or_path", str(model), "--output_dir", str(tmp_path),
        "--do_eval", "--per_device_eval_batch_size", "1", "--deploy_scenario", "True",
        "--use_synchronize", "True", "--max_eval_samples", "2", "--max_target_length", "12", *flags,
    ) == 0  # fmt: skip
    content = results(tmp_path)
    wanted = (
        "rouge1 rouge2 rougeL rougeLsum gen_len block_avg exit_layer_counts tokens_per_second ms_per_token"
    )
    assert {f"eval_{name}" for name in wanted.split()} <= set(content)
    assert content == results(tmp_path, "eval")
    assert counts_fit(content["eval_exit_layer_counts"])
    layers = content["eval_exit_layer_counts"]
    mean = sum(layer * count for layer, count in enumerate(layers, start=1)) / sum(layers)
    assert content["eval_block_avg"] == pytest.approx(mean)
    assert (tmp_path / "notes.txt").read_text() == "kept"


def test_predictions_are_written_one_a_line(tmp_path, model):
    flags = eval_flags(model, tmp_path, "--do_predict", "--max_predict_samples", "4")
    assert call(*flags) == 0
    assert len((tmp_path / "generated_predictions.txt").read_text().splitlines()) == 4
    assert results(tmp_path, "predict")["predict_samples"] == 4
    assert results(tmp_path, "eval")["eval_samples"] == 3


def test_empty_and_overlong_documents_do_not_stop_a_run(tmp_path, model):
    rows = [("", "a"), (None, "b"), ("word " * 5000, "c"), ("東京 ☃", ""), ("x", None)]
    file = tmp_path / "validation.csv"
    with file.open("w", newline="") as handle:
        csv.writer(handle).writerows([("document", "summary"), *rows])
    flags = eval_flags(model, tmp_path / "output", "--validation_file", str(file), "--max_eval_samples", "9")
    del flags[flags.index("--dataset_name") : flags.index("--dataset_name") + 2]
    for prefix in ("summarize: ", ""):
        flags[flags.index("--source_prefix") + 1] = prefix
        assert call(*flags, "--static_exit_layer", "1", "--overwrite_output_dir") == 0
        assert results(tmp_path / "output")["eval_samples"] == 5


@pytest.mark.parametrize("suffix", ["json", "yaml"])
@pytest.mark.parametrize(
    ("exits", "layers"),
    [
        ({"static_exit_layer": 1}, 1),
        ({"use_early_exit": True, "exit_conf_threshold": 1, "exit_min_layer": 2}, 3),
    ],
)
def test_settings_may_stand_in_a_file(tmp_path, model, suffix, exits, layers):
    settings = {
        "model_name_or_path": str(model), "dataset_name": "embedded", "output_dir": str(tmp_path / "output"),
        "do_eval": True, "predict_with_generate": True, "max_eval_samples": 1, "max_target_length": 8,
        "report_to": "none", "use_cpu": True, "learning_rate": "1e-4", **exits,
    }  # fmt: skip
    file = tmp_path / f"settings.{suffix}"
    file.write_text(json.dumps(settings))  # JSON is YAML
    assert call(str(file)) == 0
    assert results(tmp_path / "output")["eval_block_avg"] == layers


def sweep_settings(folder):
    return [point["setting"] for point in json.loads((folder / "sweep.json").read_text())["points"]]


def test_a_sweep_skips_its_finished_points_and_grows(tmp_path, model, capsys, monkeypatch):
    from trainers.generation import GenerationTrainer

    evaluated, evaluate = [], GenerationTrainer.evaluate

    def noted(self, *args, **kwargs):
        evaluated.append(self.generation.policy)
        if len(evaluated) == 2:
            raise KeyboardInterrupt
        return evaluate(self, *args, **kwargs)

    monkeypatch.setattr(GenerationTrainer, "evaluate", noted)
    flags = eval_flags(model, tmp_path, "--static_exit_layer", "all")
    with pytest.raises(KeyboardInterrupt):
        call(*flags)
    assert sweep_settings(tmp_path) == ["static 1"]
    assert call(*flags) == 0
    assert [policy.static_layer for policy in evaluated] == [1, 2, 2, 3]
    assert sweep_settings(tmp_path) == ["static 1", "static 2", "static 3"]
    table = (tmp_path / "sweep.md").read_text()
    assert table.strip() in capsys.readouterr().out
    assert call(*flags) == 0
    assert len(evaluated) == 4
    thresholds = ["--use_early_exit", "True", "--exit_conf_threshold", "0.5", "0.9"]
    assert call(*eval_flags(model, tmp_path, *thresholds)) == 0
    assert sweep_settings(tmp_path)[3:] == ["softmax λ=0.5", "softmax λ=0.9"]
    alone = ["--use_early_exit", "True", "--exit_conf_threshold", "0.8"]
    assert call(*eval_flags(model, tmp_path, *alone)) == 2  # an evaluation, which needs its own folder
    assert call(*eval_flags(model, tmp_path, *alone, "--sweep", "True")) == 0
    assert sweep_settings(tmp_path)[5:] == ["softmax λ=0.8"]
    assert call(*flags, "--max_eval_samples", "2") == 2  # other data: another sweep
    assert len(sweep_settings(tmp_path)) == 6


def test_a_killed_training_goes_on_from_its_last_checkpoint(python, tmp_path):
    output = tmp_path / "run"
    flags = train_flags(output, "--save_steps", "5", "--logging_steps", "1", "--overwrite_output_dir")
    flags[flags.index("--max_steps") + 1] = "3000"
    command = [python, "run_summarization.py", *flags]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not (output / "checkpoint-10").exists() and time.monotonic() < deadline:
        assert process.poll() is None
        time.sleep(0.02)
    process.terminate()  # kills the training at once
    assert process.wait() == 128 + signal.SIGKILL
    reached = max(
        int(path.parent.name.split("-")[1]) for path in output.glob("checkpoint-*/trainer_state.json")
    )
    assert not (output / "model.safetensors").exists()

    # The same command, but stopped soon after where it was: the steps of an earlier run are not redone.
    run = json.loads((output / "run.json").read_text())
    flags[flags.index("--max_steps") + 1] = str(reached + 4)
    run["settings"]["max_steps"] = reached + 4
    (output / "run.json").write_text(json.dumps(run))
    assert call(*flags) == 0
    state = json.loads((output / "trainer_state.json").read_text())
    steps = [entry["step"] for entry in state["log_history"] if "loss" in entry]
    assert steps == list(range(1, reached + 5))
    assert results(output)["train_loss"] > 0
    assert (output / "model.safetensors").exists()
    first_half = json.loads((output / f"checkpoint-{reached}" / "trainer_state.json").read_text())
    assert first_half["log_history"] == state["log_history"][: len(first_half["log_history"])]


def test_retime_evaluates_disturbed_points_again_and_replaces_their_times(tmp_path, model, monkeypatch):
    from trainers.generation import GenerationTrainer

    evaluated, evaluate = [], GenerationTrainer.evaluate
    spreads = iter([1.1, 3.0, 1.2, 1.3])  # the second is disturbed, and is not when it is timed again

    def timed(self, *args, **kwargs):
        evaluated.append(self.generation.policy.static_layer)
        metrics = evaluate(self, *args, **kwargs)
        metrics["eval_ms_per_token_p90"] = metrics["eval_ms_per_token_p10"] * next(spreads)
        metrics["eval_ms_per_token"] = float(len(evaluated))
        return metrics

    monkeypatch.setattr(GenerationTrainer, "evaluate", timed)
    flags = eval_flags(model, tmp_path, "--static_exit_layer", "all")
    assert call(*flags) == 0
    assert evaluated == [1, 2, 3]
    assert "disturbed" in (tmp_path / "sweep.md").read_text()
    assert call(*flags, "--retime", "True") == 0
    assert evaluated == [1, 2, 3, 2]
    assert "disturbed" not in (tmp_path / "sweep.md").read_text()
    points = json.loads((tmp_path / "sweep.json").read_text())["points"]
    assert [point["metrics"]["eval_ms_per_token"] for point in points] == [1.0, 4.0, 3.0]
    assert [point["metrics"]["eval_block_avg"] for point in points] == [1, 2, 3]
    assert call(*flags, "--retime", "True") == 0
    assert len(evaluated) == 4
