"""From the command line, or a settings file in its place, to checked arguments."""

from typing import Any, NamedTuple

from transformers import HfArgumentParser, Seq2SeqTrainingArguments
from yaml import YAMLError

from util.arguments import DataArguments, ModelArguments
from util.calibration_arguments import CalibrationArguments
from util.check_arguments import check_arguments
from util.errors import UsageError
from util.exit_arguments import ExitArguments
from util.settings_file import SUFFIXES, read_settings


class Arguments(NamedTuple):
    """The flags of a run, by group."""

    model: ModelArguments
    data: DataArguments
    exits: ExitArguments
    calibration: CalibrationArguments
    training: Seq2SeqTrainingArguments


# Of transformers' own, where exit heads or adapters are trained: their losses are convex or nearly so and
# want a large rate, and clipping would let one's gradient shrink another's.
HEAD_TRAINING_DEFAULTS = {"learning_rate": 1e-3, "lr_scheduler_type": "cosine", "max_grad_norm": 0.0}
# Of metrics, the better the lower; and schedules that follow a metric.
_LOWER_IS_BETTER = ("loss", "block_avg", "ms_per_token", "runtime")
_FOLLOWS_A_METRIC = ("reduce_lr_on_plateau", "greedy")
# What is raised about values: by argparse, by readers of files, and by transformers' own checks.
BAD_VALUES = (
    ValueError, TypeError, KeyError, AttributeError, NotImplementedError, ImportError, OSError, YAMLError,
)  # fmt: skip


class OneLineParser(HfArgumentParser):
    """Raises ValueError for bad flags, with a message of one line."""

    def error(self, message: str):
        raise ValueError(message)  # one line, instead of all flags and then the line


def parse_arguments(argv: list[str], data: type[DataArguments] = DataArguments) -> Arguments:
    """The flags, or the contents of one JSON or YAML file. data: flags of the task's data. Raises UsageError
    for bad ones."""
    groups = (ModelArguments, data, ExitArguments, CalibrationArguments, Seq2SeqTrainingArguments)
    parser, file = OneLineParser(groups), argv[0] if len(argv) == 1 and argv[0].endswith(SUFFIXES) else None
    try:
        if file is not None:
            settings = read_settings(file, groups)
            unset = vars(parser.parse_known_args([])[0])
            arguments = parser.parse_dict(_dependent_defaults({**unset, **settings}, data) | settings)
        else:
            parser.set_defaults(**_dependent_defaults(vars(parser.parse_known_args(argv)[0]), data))
            arguments = parser.parse_args_into_dataclasses(argv, look_for_args_file=False)
    except BAD_VALUES as error:
        where = "" if file is None else f"{file}: "
        raise UsageError(where + " ".join(str(error).split())) from error
    arguments = Arguments(*arguments)
    check_arguments(*arguments)
    training = arguments.training
    if training.lr_scheduler_type in _FOLLOWS_A_METRIC:  # transformers takes every metric for a loss
        mode = {"mode": "max" if training.greater_is_better else "min"}
        training.lr_scheduler_kwargs = mode | (training.lr_scheduler_kwargs or {})
    if training.generation_max_length is None:
        training.generation_max_length = arguments.data.generation_length
    if training.generation_num_beams is None:
        training.generation_num_beams = arguments.data.num_beams
    return arguments


def _dependent_defaults(given: dict[str, Any], data: type[DataArguments]) -> dict[str, Any]:
    """Defaults that follow from other flags. given: all flags by name, None where one has no value; data: of
    the task."""
    defaults = {}
    if given["train_meta_cm_head"] or given["train_exit_adapters"]:
        defaults = dict(HEAD_TRAINING_DEFAULTS)
    follows = given["lr_scheduler_type"] in _FOLLOWS_A_METRIC
    if not (given["load_best_model_at_end"] or given["save_strategy"] == "best" or follows):
        return defaults
    metric = given["metric_for_best_model"]
    if metric is None:
        metric = data().task.score_names[0] if given["predict_with_generate"] else "loss"
    greater = given["greater_is_better"]
    if greater is None:
        greater = metric.removeprefix("eval_") not in _LOWER_IS_BETTER
    return defaults | {"metric_for_best_model": metric, "greater_is_better": greater}
