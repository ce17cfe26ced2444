"""What a result depends on, of the flags, as JSON values, and the files whose contents count too: to know an
interrupted run or a half-done sweep again."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from util.arguments import DataArguments
from util.command_line import Arguments
from util.metrics import scoring_rules
from util.results import device_name
from util.resume import resumption

# Flags that change where or how often something is written, not what is computed.
_SILENT = (
    "overwrite_output_dir", "overwrite_cache", "cache_dir", "token", "preprocessing_num_workers", "retime",
)  # fmt: skip
# Of transformers' many training arguments, those that an ordinary run's result depends on.
_TRAINING = (
    "do_train do_eval do_predict per_device_train_batch_size per_device_eval_batch_size "
    "gradient_accumulation_steps learning_rate weight_decay adam_beta1 adam_beta2 adam_epsilon "
    "max_grad_norm num_train_epochs max_steps lr_scheduler_type warmup_steps optim seed data_seed bf16 "
    "fp16 bf16_full_eval fp16_full_eval use_cpu predict_with_generate generation_max_length "
    "generation_num_beams"
).split()
# Of these it is what a training run comes to that depends, and no evaluation.
_OF_TRAINING_ALONE = (
    "lr_scheduler_kwargs optim_args optim_target_modules train_sampling_strategy dataloader_drop_last "
    "load_best_model_at_end metric_for_best_model greater_is_better"
).split()
_WEIGHTS = ("*.safetensors", "pytorch_model*.bin")  # the first that there are, as they are loaded


def run_settings(arguments: Arguments) -> dict[str, Any]:
    """Of a single run that trains."""
    model, data, exits, _, training = arguments
    of_training = _of_training(training, _TRAINING + _OF_TRAINING_ALONE)
    together = {**asdict(model), **asdict(data), **asdict(exits), **of_training}
    start = resumption(training)
    if isinstance(start, Path):
        together["resume_from_checkpoint"] = str(start)
    return {name: value for name, value in together.items() if name not in _SILENT}


def checkpoint_files(arguments: Arguments) -> list[Path]:
    """The weights of the checkpoint, where it is a folder. Training into that same folder ends with other
    weights there, so these do not count for it."""
    start, training = arguments.model.model_name_or_path, arguments.training
    if start is None or (training.do_train and Path(start).resolve() == Path(training.output_dir).resolve()):
        return []
    found = (sorted(Path(start).glob(kind)) for kind in _WEIGHTS)
    return next(filter(None, found), [])


def run_files(arguments: Arguments) -> list[Path]:
    """That it learns from and is evaluated on."""
    data, unlabelled = arguments.data, arguments.exits.unlabelled_file
    files = _data_files(data, data.train_file)
    files += [] if unlabelled is None else [Path(unlabelled)]
    return files + (_data_files(data, data.validation_file) if arguments.training.do_eval else [])


def sweep_settings(arguments: Arguments) -> dict[str, Any]:
    """What the points of a sweep share: all but where tokens leave, and how texts are scored."""
    model, data, exits, _, training = arguments
    together = {**asdict(model), **asdict(data), **_of_training(training, _TRAINING)}
    settings = {name: value for name, value in together.items() if name not in _SILENT}
    return settings | {
        "deploy_scenario": exits.deploy_scenario,
        "engine_precision": exits.engine_precision,
        "use_synchronize": exits.use_synchronize,
        "device": device_name(training.device),
        **scoring_rules(),
        **data.task.rules(),
    }


def sweep_files(arguments: Arguments) -> list[Path]:
    """What is evaluated on."""
    return _data_files(arguments.data, arguments.data.validation_file)


def calibration_settings(arguments: Arguments) -> dict[str, Any]:
    """What the columns of a loss table share: it goes on where this is the same."""
    names = ("max_calibrate_samples", "consistency_type", "calibrate_loss")
    shared = sweep_settings(arguments)
    del shared["per_device_eval_batch_size"]  # a row's text does not depend on it
    return shared | {
        **{name: getattr(arguments.calibration, name) for name in names},
        "exit_position_temp": arguments.exits.exit_position_temp,
    }


def _of_training(training, names: list[str]) -> dict[str, Any]:
    values = {name: getattr(training, name) for name in names}
    return {
        name: value if isinstance(value, int | float | str | None) else str(value)
        for name, value in values.items()
    }


def _data_files(data: DataArguments, own: str | None) -> list[Path]:
    """A split's own file, or else those of the data set where that is a folder."""
    if own is not None:
        return [Path(own)]
    if data.dataset_name is None or not Path(data.dataset_name).is_dir():
        return []
    return sorted(path for path in Path(data.dataset_name).rglob("*") if path.is_file())
