import pytest

from util.errors import UsageError
from util.run_folder import (
    CALIBRATION_RESULTS,
    SWEEP_RESULTS,
    check_free,
    finish_sweep,
    finish_training,
    last_checkpoint,
    prepare_sweep,
    prepare_training,
)

SETTINGS = {"learning_rate": 0.1, "seed": 1}


def checkpoint(folder, step, complete=True):
    path = folder / f"checkpoint-{step}"
    path.mkdir(parents=True)
    (path / "model.safetensors").write_text("weights")
    for name in ("optimizer.pt", "scheduler.pt", "trainer_state.json") if complete else ():
        (path / name).write_text("{}")
    return path


def test_a_new_folder_starts_anew(tmp_path):
    assert prepare_training(tmp_path / "run", SETTINGS, overwrite=False) is None


@pytest.mark.parametrize("overwrite", [False, True])
def test_an_interrupted_run_goes_on_from_its_last_complete_checkpoint(tmp_path, overwrite):
    prepare_training(tmp_path, SETTINGS, overwrite=False)
    checkpoint(tmp_path, 90)
    last = checkpoint(tmp_path, 100)
    checkpoint(tmp_path, 110, complete=False)
    assert prepare_training(tmp_path, SETTINGS, overwrite) == last == last_checkpoint(tmp_path)


@pytest.mark.parametrize("missing", ["optimizer.pt", "scheduler.pt", "trainer_state.json"])
def test_a_run_does_not_go_on_from_weights_alone(tmp_path, missing):
    prepare_training(tmp_path, SETTINGS, overwrite=False)
    whole = checkpoint(tmp_path, 90)
    (checkpoint(tmp_path, 100) / missing).unlink()
    assert prepare_training(tmp_path, SETTINGS, overwrite=False) == whole


def test_a_used_folder_needs_overwrite(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(UsageError, match=r"not empty.*--overwrite_output_dir"):
        prepare_training(tmp_path, SETTINGS, overwrite=False)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
    assert prepare_training(tmp_path, SETTINGS, overwrite=True) is None
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_other_settings_are_named_and_overwriting_drops_old_checkpoints(tmp_path):
    prepare_training(tmp_path, SETTINGS, overwrite=False)
    checkpoint(tmp_path, 10)
    with pytest.raises(UsageError, match=r"other settings: seed\)"):
        prepare_training(tmp_path, SETTINGS | {"seed": 2}, overwrite=False)
    assert prepare_training(tmp_path, SETTINGS | {"seed": 2}, overwrite=True) is None
    assert last_checkpoint(tmp_path) is None


def test_a_finished_run_is_not_resumed(tmp_path):
    prepare_training(tmp_path, SETTINGS, overwrite=False)
    checkpoint(tmp_path, 10)
    finish_training(tmp_path)
    with pytest.raises(UsageError, match="finished run"):
        prepare_training(tmp_path, SETTINGS, overwrite=False)
    assert prepare_training(tmp_path, SETTINGS, overwrite=True) is None


def test_a_file_in_the_folders_place_is_named(tmp_path):
    (tmp_path / "out").write_text("")
    with pytest.raises(UsageError, match="is a file"):
        prepare_training(tmp_path / "out", SETTINGS, overwrite=True)


def test_a_sweep_goes_on_grows_and_starts_anew_when_told(tmp_path):
    prepare_sweep(tmp_path, SETTINGS, overwrite=False)
    (tmp_path / "sweep.json").write_text("points")
    for overwrite in (False, True):  # interrupted
        prepare_sweep(tmp_path, SETTINGS, overwrite)
        assert (tmp_path / "sweep.json").exists()
    finish_sweep(tmp_path)
    prepare_sweep(tmp_path, SETTINGS, overwrite=False)  # grows
    assert (tmp_path / "sweep.json").exists()
    finish_sweep(tmp_path)
    with pytest.raises(UsageError, match="not empty"):
        prepare_sweep(tmp_path, SETTINGS | {"seed": 2}, overwrite=False)
    assert (tmp_path / "sweep.json").exists()
    kept = ("calibration.json", "notes.txt")
    for name in (*SWEEP_RESULTS, *kept):
        (tmp_path / name).write_text("of before")
    prepare_sweep(tmp_path, SETTINGS, overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == [*kept, "sweep_run.json"]


def test_a_calibration_starts_anew_without_an_earlier_verdict(tmp_path):
    prepare_sweep(tmp_path, SETTINGS, overwrite=False, results=CALIBRATION_RESULTS)
    for name in (*CALIBRATION_RESULTS, "sweep.json"):
        (tmp_path / name).write_text("of before")
    prepare_sweep(tmp_path, SETTINGS, overwrite=True, results=CALIBRATION_RESULTS)  # was interrupted: goes on
    assert (tmp_path / "calibration.json").exists()
    prepare_sweep(tmp_path, SETTINGS | {"seed": 2}, overwrite=True, results=CALIBRATION_RESULTS)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["sweep.json", "sweep_run.json"]


def test_only_the_trainers_own_checkpoints_and_results_are_removed(tmp_path):
    prepare_training(tmp_path, SETTINGS, overwrite=False)
    checkpoint(tmp_path, 10)
    (tmp_path / "checkpoint-best").mkdir()
    (tmp_path / "checkpoint-best" / "trainer_state.json").write_text("{}")
    (tmp_path / "checkpoint-notes.txt").write_text("mine")
    (tmp_path / "train_results.json").write_text("old")
    assert last_checkpoint(tmp_path) == tmp_path / "checkpoint-10"
    prepare_training(tmp_path, SETTINGS | {"seed": 2}, overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "checkpoint-best",
        "checkpoint-notes.txt",
        "run.json",
    ]


def test_sweeps_and_evaluations_leave_an_unfinished_training_resumable(tmp_path):
    prepare_training(tmp_path, SETTINGS, overwrite=False)
    last = checkpoint(tmp_path, 10)
    check_free(tmp_path, overwrite=True)
    prepare_sweep(tmp_path, {"model": "a"}, overwrite=True)
    finish_sweep(tmp_path)
    assert prepare_training(tmp_path, SETTINGS, overwrite=False) == last
