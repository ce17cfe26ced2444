"""An interrupted run that is started again: what has changed since stops it, by name."""

import json

import pytest

from tests.cli.conftest import QUIET, call
from tests.cli.test_bad_input import fails_with
from tests.cli.test_training import spoil


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
