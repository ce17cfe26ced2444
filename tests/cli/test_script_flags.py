"""Further arguments and settings of scripts reach the calls that they are for. A Python that only notes its
arguments stands in for the real one; what it noted is read as the entry points read it."""

import csv
import os
import shutil
import subprocess
from dataclasses import fields

import pytest

from tests.cli.conftest import ROOT
from util.arguments import DataArguments
from util.command_line import Arguments, parse_arguments
from util.task_arguments import AnswerArguments, TranslationArguments
from util.training_arguments import ObjectiveArguments

TASKS = {
    "run_summarization.py": DataArguments,
    "run_translation.py": TranslationArguments,
    "run_question_answering.py": AnswerArguments,
}
NOTES = """#!/bin/sh
for word in "$@"; do printf '%s\\t' "$word" >> "$CALLS"; done
echo >> "$CALLS"
"""


@pytest.fixture
def calls(tmp_path):
    """Runs a script with settings and further arguments. Returns the command lines of entry points."""

    def run(script: str, *more: str, **settings) -> list[list[str]]:
        python, notes = tmp_path / "python", tmp_path / "calls"
        python.write_text(NOTES)
        python.chmod(0o755)
        notes.write_text("")
        environment = {"PATH": os.environ["PATH"], "PYTHON": python, "CALLS": notes, "TOP_KS": "5"}
        environment |= {"OUTPUT_DIR": tmp_path / "out", **settings}
        environment = {name: str(value) for name, value in environment.items()}
        subprocess.run(["bash", script, *more], cwd=ROOT, env=environment, capture_output=True, check=True)
        lines = [line.split("\t")[:-1] for line in notes.read_text().splitlines()]
        return [line for line in lines if line[0].startswith("run_")]

    return run


def read(call: list[str]) -> Arguments:
    entry, *flags = call
    return parse_arguments(flags, TASKS[entry])


def value_of(call: list[str], flag: str) -> str:
    return call[call.index(flag) + 1]


SWEEPS = ["topk_run_file.sh", "scripts/translate.sh", "scripts/answer.sh", "scripts/confidence_sweep.sh"]


@pytest.mark.parametrize("more", [["--overwrite_output_dir"], ["--overwrite_output_dir", "True"], []])
@pytest.mark.parametrize("script", SWEEPS)
def test_sweeps_into_one_folder_overwrite_it_once(calls, script, more):
    folders = {}
    for call in calls(script, "--use_cpu", *more, MODEL="a_model"):
        overwrites = read(call).exits.overwrite_output_dir
        folders.setdefault(value_of(call, "--output_dir"), []).append(overwrites)
    assert max(map(len, folders.values())) > 1
    for first, *others in folders.values():
        assert first == bool(more)
        assert not any(others)


@pytest.mark.parametrize(
    ("script", "trainings"),
    [
        ("scripts/translate.sh", 2),
        ("scripts/answer.sh", 2),
        ("scripts/free.sh", 1),
        ("scripts/confidence_sweep.sh", 1),
    ],
)
def test_evaluation_gets_what_is_not_of_training_alone(calls, tmp_path, script, trainings):
    of_training = ["--learning_rate", "0.01", "--max_steps", "7", "--per_device_train_batch_size", "2"]
    further = ["--use_cpu", *of_training, "--num_beams=1", "--train_sampling_strategy", "group_by_length"]
    (tmp_path / "trained").mkdir()
    (tmp_path / "trained" / "config.json").touch()  # for the script that trains heads on it
    found = list(map(read, calls(script, *further, TRAINED_MODEL=tmp_path / "trained")))
    assert all(each.training.use_cpu and each.data.num_beams == 1 for each in found)
    trains = [each.training.do_train for each in found]
    assert trains == [place < trainings for place in range(len(found))]
    learned = [(each.training.learning_rate, each.training.max_steps) for each in found]
    assert learned == [(0.01, 7) if each else (5e-5, -1) for each in trains]


def test_no_flag_of_training_stops_an_evaluation():
    names = [flag.name for flag in fields(ObjectiveArguments)]
    names += ["train_meta_cm_head", "exit_head_loss", "share_exit_head", "resume_from_checkpoint", "bf16"]
    of_training = [word for name in names for word in (f"--{name}", "a", "b")]
    kept = ["--use_cpu", "--report_to", "none", "--bf16_full_eval", "True", "--engine_precision=int8"]
    script = 'source scripts/evaluation_flags.sh "$@"; printf "%s\\n" "${EVALUATION_FLAGS[@]}"'
    command = ["bash", "-euc", script, "bash", *of_training, *kept[:3], "--lora_rank=4", *kept[3:]]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == kept


def test_a_setting_that_is_empty_is_not_one_that_is_missing(calls):
    def said(call, flag):
        return value_of(call, flag) if flag in call else None

    static = "scripts/static_layer.sh"
    assert [said(*calls(static, **s), "--source_prefix") for s in ({}, {"SOURCE_PREFIX": ""})] == [
        "summarize: ",
        "",
    ]
    for settings, documents in (({}, "3000"), ({"DOCUMENTS": ""}, None), ({"DOCUMENTS": "9"}, "9")):
        _, own_text = calls("scripts/train.sh", **settings)
        assert said(own_text, "--max_train_samples") == documents
    for script in ("scripts/translate.sh", "scripts/answer.sh"):
        for settings, samples in (({}, "200"), ({"MAX_EVAL_SAMPLES": ""}, None)):
            *_, last = calls(script, MODEL="a_model", **settings)
            assert said(last, "--max_eval_samples") == samples
    sizes = [calls("scripts/calibration_sweep.sh", MODEL="a_model", **s) for s in ({}, {"SIZES": ""})]
    assert list(map(len, sizes)) == [8, 2]


@pytest.mark.parametrize("script", ["topk_run_file.sh", "calibration_run.sh", "scripts/confidence_sweep.sh"])
@pytest.mark.parametrize("named", [False, True])
def test_a_model_that_is_missing_is_trained_from_nothing(calls, tmp_path, script, named):
    trained = tmp_path / "trained"
    first, *_ = calls(script, TRAINED_MODEL=trained, **({"MODEL": trained} if named else {}))
    arguments = read(first)
    assert arguments.training.do_train
    assert (arguments.model.model_shape, arguments.model.model_name_or_path) == ("small", None)


def test_free_is_evaluated_again_with_other_settings(model, python, tmp_path):
    """The real one: what it trained is there."""
    shutil.copytree(model, tmp_path / "model")
    settings = {
        "OUTPUT_DIR": tmp_path, "SHALLOW_LAYER": 1, "MAX_EVAL_SAMPLES": 2, "MAX_TARGET_LENGTH": 8,
        "PYTHON": python,
    }  # fmt: skip

    def points(*more: str, **changed) -> list[str]:
        environment = os.environ | {name: str(value) for name, value in (settings | changed).items()}
        command = ["bash", "scripts/free.sh", "--use_cpu", "--report_to", "none", *more]
        subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, check=True)
        return [row["setting"] for row in csv.DictReader((tmp_path / "eval" / "sweep.csv").open())]

    (first,) = points("--exit_propagation", "0.5")
    assert first.startswith("softmax λ=0.9 ")
    assert points(THRESHOLD=0.5, ROLLBACK=1.5)[:1] == [first]
    again = points(THRESHOLD=0.5)
    assert [name.split(" ×")[0].split(" max=1 ")[1] for name in again] == [
        "parallel",
        "rollback 0.22313",
        "parallel",
    ]
    assert points("--overwrite_output_dir") == [first]
