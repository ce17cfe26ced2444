"""The output folder of a run, and what lies beside it."""

from pathlib import Path

from util.command_line import Arguments
from util.ledger import Ledger, may_write
from util.run_folder import LOSS_TABLE_FILE, check_free, check_writable, prepare_sweep, prepare_training
from util.settings import calibration_settings, run_settings, sweep_settings


def prepare_folder(arguments: Arguments, resume: Path | bool | None, shared: dict) -> Path | None:
    """Readies the output folder. Returns the checkpoint to resume from, if there is one.

    resume: see `util.resume.resumption`. shared: what points of a sweep and columns of a loss table share
    beside their flags.
    """
    model, data, exits, calibration, training = arguments
    folder, overwrite = Path(training.output_dir), exits.overwrite_output_dir
    check_writable(folder, "--output_dir")
    if calibration.do_cali:
        context = calibration_settings(model, data, exits, calibration, training)
        prepare_sweep(folder, context | shared, overwrite, LOSS_TABLE_FILE)
    elif exits.is_sweep:
        prepare_sweep(folder, sweep_settings(model, data, exits, training) | shared, overwrite)
    elif training.do_train:
        settings = run_settings(model, data, exits, training)
        if resume is False and not training.should_save:
            resume = None  # the main process has made room
        return prepare_training(folder, settings, overwrite, resume)
    else:  # an evaluation writes at its end only
        check_free(folder, overwrite)
    return None


def ledger_of(arguments: Arguments) -> Ledger:
    """Beside the checkpoint's folder and the validation data, where these are on this machine, and in the
    output folder if neither can be written. Not in the checkpoint's folder: measuring a model leaves it as it
    is."""
    model, data = arguments.model, arguments.data
    names = (model.model_name_or_path, data.validation_file or data.dataset_name)
    places = [Path(name).resolve() for name in names if name is not None and Path(name).exists()]
    parents = [place.parent for place in places]
    writable = any(map(may_write, parents))
    return Ledger([*parents, *([] if writable else [Path(arguments.training.output_dir)])])
