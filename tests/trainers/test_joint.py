"""The training loss is the same however a step's batch is split: into accumulated micro-batches, or
over two processes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.cli.conftest import call
from util.corpus import generate

ROOT = Path(__file__).parents[2]
FLAGS = (
    "--model_shape tiny --tokenizer_vocab_size 300 --source_prefix summarize: --max_source_length 40 "
    "--max_target_length 24 --do_train --output_hidden_states_decoder True "
    "--intermediate_loss_fn weighted_ce "
    # SGD, because Adam makes a whole step of a gradient that is rounding noise.
    "--max_steps 6 --optim sgd --learning_rate 0.1 --logging_steps 1 --lr_scheduler_type constant "
    "--report_to none "
    "--do_eval --predict_with_generate --static_exit_layer 2 --use_cpu --disable_tqdm True --save_strategy no"
).split()
SPLITS = {
    "single": (1, "--per_device_train_batch_size 8 --per_device_eval_batch_size 1"),
    "accumulated": (1, "--per_device_train_batch_size 2 --gradient_accumulation_steps 4"),
    "two processes": (2, "--per_device_train_batch_size 4 --per_device_eval_batch_size 3"),
}


@pytest.fixture(scope="module")
def runs(python, tmp_path_factory):
    """Name of the split → (results, losses by step, weights), from the real entry point."""
    folder = tmp_path_factory.mktemp("runs")
    for name, size in (("train", 48), ("validation", 7)):
        rows = generate(name, size)
        for number, row in enumerate(rows):  # summaries of very different length
            row["summary"] = " ".join(row["summary"].split()[: 2 + 5 * (number % 4)])
        (folder / f"{name}.json").write_text("\n".join(map(json.dumps, rows)))
    results = {}
    for name, (processes, flags) in SPLITS.items():
        output = folder / name.replace(" ", "_")
        command = [*FLAGS, *flags.split(), "--output_dir", str(output)]
        command += ["--train_file", str(folder / "train.json")]
        command += ["--validation_file", str(folder / "validation.json")]
        if processes == 1:
            assert call(*command) == 0
        else:
            launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
            launcher += [f"--nproc_per_node={processes}", "--no-python", str(python), "run_summarization.py"]
            done = subprocess.run(
                [*launcher, *command], cwd=ROOT, capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, done.stderr[-3000:]
        history = json.loads((output / "trainer_state.json").read_text())["log_history"]
        losses = [
            (entry["loss"], entry["grad_norm"])
            for entry in history
            if "loss" in entry and "grad_norm" in entry
        ]
        results[name] = (
            json.loads((output / "all_results.json").read_text()) | {"log_history": history},
            torch.tensor(losses),
            load_file(output / "model.safetensors"),
        )
    return results


@pytest.mark.parametrize("split", ["accumulated", "two processes"])
def test_loss_gradient_and_weights_do_not_depend_on_the_split(runs, split):
    _, losses, weights = runs["single"]
    _, split_losses, split_weights = runs[split]
    assert len(losses) == 6
    torch.testing.assert_close(split_losses, losses, rtol=2e-3, atol=2e-3)  # logs round to 4 digits
    for name, weight in weights.items():
        torch.testing.assert_close(split_weights[name], weight, rtol=1e-4, atol=1e-4)


def test_evaluation_by_two_processes_counts_every_example_once(runs):
    single, double = runs["single"][0], runs["two processes"][0]
    assert double["eval_samples"] == single["eval_samples"] == 7
    for name in ("eval_rouge1", "eval_rougeL", "eval_gen_len", "eval_block_avg"):
        assert double[name] == pytest.approx(single[name], abs=1e-9), name
    assert double["eval_exit_layer_counts"] == single["eval_exit_layer_counts"]
    assert single["eval_exit_layer_counts"][1] == sum(single["eval_exit_layer_counts"]) > 0


def test_the_loss_of_every_exit_is_logged_and_together_they_are_the_loss(runs):
    history = runs["single"][0]["log_history"]
    for entry in history[:6]:
        exits = [entry[f"exit_{layer}_loss"] for layer in (1, 2, 3)]
        weighted = sum(layer * loss for layer, loss in zip((1, 2, 3), exits, strict=True)) / 6
        assert entry["loss"] == pytest.approx(weighted, abs=2e-3)
