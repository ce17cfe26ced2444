"""What may happen to an output folder: nothing is lost without --overwrite_output_dir.

A training run notes its settings in `run.json`, a sweep in `sweep_run.json`. What was interrupted goes on
when it is started again with the same settings; anything else that is in the folder stops it.
"""

import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from early_exit.models.calibration_file import CALIBRATION_FILE
from util.errors import UsageError
from util.files import read_json, write_json

SWEEP_FILE = "sweep.json"  # the points of a sweep, see `util.results`
LOSS_TABLE_FILE = "loss_table.json.gz"  # of a calibration
SEQUENTIAL_FILE = "sequential.json"  # of one that reads prompts one by one
TEXTS_FILE = "texts.json.gz"  # of both, see `util.run_texts`
REPORT_FILE = "report.html"  # of both, see `util.report`
# What they leave, and start anew without.
SWEEP_RESULTS = (SWEEP_FILE, "sweep.csv", "sweep.md", TEXTS_FILE, REPORT_FILE)
CALIBRATION_RESULTS = (LOSS_TABLE_FILE, SEQUENTIAL_FILE, CALIBRATION_FILE, TEXTS_FILE, REPORT_FILE)
STATE_FILE = "trainer_state.json"
CHECKPOINT_FILES = (
    STATE_FILE,
    "optimizer.pt",
    "scheduler.pt",
)  # without which training cannot go on as it was
RUN_FILE = "run.json"
SWEEP_RUN_FILE = "sweep_run.json"


def prepare_training(
    folder: Path, settings: dict[str, Any], overwrite: bool, resume: Path | bool | None = None
) -> Path | None:
    """Readies the folder for a training run and returns the checkpoint to resume from, None to start anew.

    settings: all that the result depends on, as JSON values. resume: see `util.resume.resumption`. Starting
    anew, or from an earlier checkpoint, with `overwrite` removes the checkpoints that do not lead there and
    the results of an earlier run, and nothing else. Raises UsageError where the folder is in use.
    """
    earlier, last = read_json(folder / RUN_FILE), last_checkpoint(folder)
    if resume is True and last is None:
        raise UsageError(f"--resume_from_checkpoint True: {folder} holds no checkpoint to go on from")
    asked = resume if isinstance(resume, Path) else None
    interrupted = earlier is not None and not earlier["finished"]
    if interrupted and earlier["settings"] == settings and resume is not False:
        return last or asked
    start = last if resume is True else asked
    others = [checkpoint for checkpoint in _checkpoints(folder) if not _leads_to(checkpoint, start)]
    goes_on = interrupted and not others and start is not None and _is_in(start, folder)
    if not goes_on:
        check_free(folder, overwrite, _why(earlier, settings))
    for checkpoint in others:
        shutil.rmtree(checkpoint)
    for results in folder.glob("*_results.json"):
        results.unlink()
    write_json(folder / RUN_FILE, {"settings": settings, "finished": False})
    return start


def finish_training(folder: Path) -> None:
    """Marks the training run in the folder as finished: it will not be resumed."""
    write_json(folder / RUN_FILE, {**read_json(folder / RUN_FILE), "finished": True})


def prepare_sweep(
    folder: Path, context: dict[str, Any], overwrite: bool, results: Sequence[str] = SWEEP_RESULTS
) -> None:
    """Readies the folder for a sweep or a calibration. What it has measured stays where the context is the
    same: it goes on, or grows.

    context: what all points, or columns of a loss table, share. results: names of the files that one leaves.
    A finished one starts anew with `overwrite`, without these. Raises UsageError where the folder is in use
    otherwise.
    """
    earlier = read_json(folder / SWEEP_RUN_FILE)
    goes_on = (
        earlier is not None and earlier["settings"] == context and not (earlier["finished"] and overwrite)
    )
    if not goes_on:
        check_free(folder, overwrite, _why(earlier, context))
        for name in results:
            (folder / name).unlink(missing_ok=True)
    write_json(folder / SWEEP_RUN_FILE, {"settings": context, "finished": False})


def finish_sweep(folder: Path) -> None:
    """Marks the sweep in the folder as finished."""
    write_json(folder / SWEEP_RUN_FILE, {**read_json(folder / SWEEP_RUN_FILE), "finished": True})


def check_free(folder: Path, overwrite: bool, why: str = "") -> None:
    """Raises UsageError where the folder is a file, or not empty and `overwrite` is not given."""
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"output folder {folder} is a file")
    if folder.is_dir() and any(folder.iterdir()) and not overwrite:
        raise UsageError(
            f"output folder {folder} is not empty{why}; choose another one or pass --overwrite_output_dir"
        )


def check_writable(folder: Path, why: str) -> None:
    """Raises UsageError where no file can be written into the folder, or into the one that it would be made
    in. why: the flag that asks for it."""
    existing = next(path for path in (folder, *folder.absolute().parents) if os.path.lexists(path))
    if not existing.is_dir():
        raise UsageError(f"{why}: {existing} is a file, not a folder")
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        raise UsageError(f"{why}: nothing can be written into {existing} ({error.strerror})") from error


def last_checkpoint(folder: Path) -> Path | None:
    """The latest complete checkpoint. transformers writes trainer_state.json last: one without it was
    cut off while it was being written. --save_only_model writes none that training can go on from."""
    complete = [
        path for path in _checkpoints(folder) if all((path / name).is_file() for name in CHECKPOINT_FILES)
    ]
    return max(complete, key=_step, default=None)


def _checkpoints(folder: Path) -> list[Path]:
    """The Trainer's own, checkpoint-{step}; not what a user has put beside them."""
    return [
        path for path in folder.glob("checkpoint-*") if path.is_dir() and path.name.split("-", 1)[1].isdigit()
    ]


def _is_in(checkpoint: Path, folder: Path) -> bool:
    return checkpoint.resolve().parent == folder.resolve()


def _leads_to(checkpoint: Path, start: Path | None) -> bool:
    """Whether a checkpoint is where a run starts from, or one of its folder's before that."""
    if start is None or not _is_in(checkpoint, start.resolve().parent):
        return False
    return _step(checkpoint) <= _step(start)


def _step(checkpoint: Path) -> int:
    return int(checkpoint.resolve().name.split("-")[1])


def _why(earlier: dict[str, Any] | None, settings: dict[str, Any]) -> str:
    if earlier is None:
        return ""
    if earlier["finished"]:
        return " (it holds a finished run)"
    changed = sorted(
        name
        for name in {*settings, *earlier["settings"]}
        if settings.get(name) != earlier["settings"].get(name)
    )
    return " (it holds an unfinished run" + (
        f" with other settings: {', '.join(changed)})" if changed else ")"
    )
