"""An interrupted run that is started again: what has changed since stops it, by name."""

import json

import pytest

from runner.folder import prepare_folder
from runner.job_of_flags import job_of_flags
from tests.cli.conftest import DATA, QUIET, call
from tests.cli.test_bad_input import fails_with
from tests.cli.test_training import spoil
from tests.util.test_run_folder import checkpoint
from util.command_line import parse_arguments
from util.errors import UsageError
from util.files import read_json, write_json


def write_rows(file, verb):
    rows = [{"document": f"{name} {verb} the {thing}.", "summary": f"{name} {verb}."} for name, thing in ROWS]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


ROWS = [("Ada", "lamp"), ("Ben", "door"), ("Cleo", "boat"), ("Dan", "wall")] * 4
SCHEDULE = ["--lr_scheduler_type", "cosine_with_restarts", "--lr_scheduler_kwargs"]


@pytest.fixture
def interrupted(capsys, tmp_path):
    """Flags of a run that ended at its third step, its training file and its validation file."""
    train, validation = tmp_path / "train.jsonl", tmp_path / "validation.jsonl"
    for file in (train, validation):
        write_rows(file, "paints")
    flags = [
        *QUIET, "--train_file", str(train), "--validation_file", str(validation), "--model_shape", "tiny",
        "--tokenizer_vocab_size", "100", "--max_target_length", "12", "--do_train", "--do_eval",
        "--max_eval_samples", "2", "--max_steps", "4", "--save_steps", "2", *SCHEDULE, '{"num_cycles": 2}',
        "--output_dir", str(tmp_path / "run"),
    ]  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        spoil(patch, 3)
        assert call(*flags) == 2
    capsys.readouterr()
    return flags, train, validation


def test_edited_data_stop_a_resumption(capsys, interrupted):
    flags, *files = interrupted
    for file in files:
        write_rows(file, "sees")
        fails_with(capsys, flags, f"an unfinished run with other settings: contents of {file})")
        write_rows(file, "paints")
    assert call(*flags) == 0


def test_another_schedule_stops_a_resumption(capsys, interrupted):
    flags, *_ = interrupted
    others = [flag if flag != '{"num_cycles": 2}' else '{"num_cycles": 3}' for flag in flags]
    fails_with(capsys, others, "an unfinished run with other settings: lr_scheduler_kwargs)")


METHODS = {
    "model": [],
    "lora": ["--use_lora", "True"],
    "heads": ["--train_meta_cm_head", "--exit_conf_type", "MLP"],
    "adapters": ["--train_exit_adapters", "True"],
}


def prepared(start, output, *more):
    """Readies the output folder of a training that starts from a checkpoint. Returns what it goes on from."""
    flags = [*DATA, *QUIET, "--model_name_or_path", str(start), "--do_train", "--output_dir", str(output)]
    return prepare_folder(job_of_flags(parse_arguments([*flags, *more])), None, {})


@pytest.fixture
def start(tmp_path):
    """A checkpoint, as far as a folder tells."""
    (tmp_path / "start").mkdir()
    (tmp_path / "start" / "model.safetensors").write_text("weights")
    return tmp_path / "start"


@pytest.mark.parametrize("method", METHODS)
def test_other_weights_to_start_from_stop_a_resumption(start, tmp_path, method):
    weights, flags = start / "model.safetensors", METHODS[method]
    assert prepared(start, tmp_path / "run", *flags) is None
    last = checkpoint(tmp_path / "run", 2)
    weights.write_text("others")
    with pytest.raises(UsageError, match=rf"an unfinished run with other settings: contents of {weights}\)"):
        prepared(start, tmp_path / "run", *flags)
    weights.write_text("weights")
    assert prepared(start, tmp_path / "run", *flags) == last


@pytest.mark.parametrize("beside", [False, True])
def test_weights_of_torch_count_where_they_are_loaded(start, tmp_path, beside):
    weights = start / "pytorch_model.bin"
    weights.write_text("weights")
    if not beside:
        (start / "model.safetensors").unlink()
    prepared(start, tmp_path / "run")
    weights.write_text("others")
    if beside:
        prepared(start, tmp_path / "run")
    else:
        with pytest.raises(UsageError, match=f"with other settings: contents of {weights}"):
            prepared(start, tmp_path / "run")


def test_training_in_the_checkpoints_folder_goes_on_with_the_weights_that_it_has_saved(start):
    assert prepared(start, start, "--overwrite_output_dir") is None
    last = checkpoint(start, 2)
    (start / "model.safetensors").write_text("trained")
    assert prepared(start, f"{start}/../start").resolve() == last


def test_a_run_that_an_earlier_version_left_goes_on(start, tmp_path):
    run, name = tmp_path / "run", f"contents of {start / 'model.safetensors'}"
    prepared(start, run)
    last, noted = checkpoint(run, 2), read_json(run / "run.json")
    del noted["settings"][name]
    write_json(run / "run.json", noted)
    assert prepared(start, run) == last
    with pytest.raises(UsageError, match=r"with other settings: .*max_steps"):
        prepared(start, run, "--max_steps", "9")
    write_json(run / "run.json", {**noted, "finished": True})
    assert prepared(start, run, "--overwrite_output_dir") is None
    assert name in read_json(run / "run.json")["settings"]
