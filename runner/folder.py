"""The output folder of a run, and what lies beside it."""

import hashlib
from pathlib import Path

from runner.values import Job
from util.ledger import Ledger, may_write
from util.run_folder import (
    CALIBRATION_RESULTS,
    SWEEP_RESULTS,
    check_free,
    check_writable,
    prepare_sweep,
    prepare_training,
)


def prepare_folder(job: Job, resume: Path | bool | None, shared: dict) -> Path | None:
    """Readies the output folder. Returns the checkpoint to resume from, if there is one.

    resume: see `util.resume.resumption`. shared: what points of a sweep and columns of a loss table share
    beside their settings.
    """
    output, training = job.output, job.training
    check_writable(output.folder, "--output_dir")
    contents = [_content(file) for file in output.files]
    if job.calibration is not None or job.evaluation.sweeps:
        results = SWEEP_RESULTS if job.calibration is None else CALIBRATION_RESULTS
        context = output.settings | {"files": contents} | shared
        prepare_sweep(output.folder, context, output.overwrite, results)
    elif training.do_train:
        settings = output.settings | {f"contents of {name}": digest for name, digest in contents}
        if resume is False and not training.should_save:
            resume = None  # the main process has made room
        return prepare_training(output.folder, settings, output.overwrite, resume)
    else:
        check_free(output.folder, output.overwrite)
    return None


def _content(path: Path) -> list[str]:
    """Name and hash of a file: a model trained again, or edited data, start a new sweep."""
    with path.open("rb") as file:
        return [str(path), hashlib.file_digest(file, "sha256").hexdigest()]


def ledger_of(job: Job) -> Ledger:
    """Beside the checkpoint's folder and the validation data, where these are on this machine, and in the
    output folder if neither can be written. Not in the checkpoint's folder: measuring a model leaves it as it
    is."""
    names = (job.model.checkpoint, job.data.files.get("validation", job.data.name))
    places = [Path(name).resolve() for name in names if name is not None and Path(name).exists()]
    parents = [place.parent for place in places]
    writable = any(map(may_write, parents))
    return Ledger([*parents, *([] if writable else [job.output.folder])])
