"""Flags that are unknown, out of range or contradict each other: found before anything is loaded."""

from early_exit import PRECISIONS, get_measure
from early_exit.head_losses import HEAD_LOSSES
from early_exit.heads import HEAD_NAMES, head_kind
from early_exit.models.shapes import SHAPES
from util.arguments import DataArguments, ModelArguments
from util.calibration_arguments import CalibrationArguments
from util.check_calibration import check_calibration
from util.check_objectives import check_objectives
from util.check_training import check_training
from util.errors import UsageError
from util.exit_arguments import ExitArguments
from util.shallow_deep import translate_shallow_deep


def check_arguments(
    model: ModelArguments,
    data: DataArguments,
    exits: ExitArguments,
    calibration: CalibrationArguments,
    training,
) -> None:
    """Raises UsageError for flags that are unknown, out of range or contradict each other.

    training: transformers' `Seq2SeqTrainingArguments`. What needs the model or the data is checked
    once these are loaded.
    """
    if not (training.do_train or training.do_eval or training.do_predict or calibration.do_cali):
        raise UsageError(
            "nothing to do: give at least one of --do_train, --do_eval, --do_predict, --do_cali True"
        )
    if (model.model_name_or_path is None) == (model.model_shape is None):
        raise UsageError("give exactly one of --model_name_or_path and --model_shape")
    if model.model_shape is not None and model.model_shape not in SHAPES:
        raise UsageError(f"unknown model shape {model.model_shape!r}; known: {', '.join(SHAPES)}")
    if model.model_shape is not None and exits.train_meta_cm_head:
        raise UsageError("--train_meta_cm_head trains heads on a trained model: give --model_name_or_path")
    if model.model_shape is not None and not training.do_train:
        raise UsageError("--model_shape starts from random weights, so it needs --do_train")
    data.check()
    validates = training.do_eval or calibration.do_cali
    check_data_sources(data, training.do_train, validates, training.do_predict)
    check_numbers(model, data)
    longest = training.generation_max_length or data.generation_length
    if training.predict_with_generate and longest < 2:
        raise UsageError(f"generation of at most {longest} tokens, the start token included, is empty")
    _check_measure_names(exits)
    check_calibration(calibration, exits, model, training)  # before sweeps, of which it knows better
    if calibration.do_cali and data.max_eval_samples is not None:
        raise UsageError(
            "--max_eval_samples has no effect with --do_cali True, which draws from all validation examples: "
            "give --max_calibrate_samples"
        )
    _check_exits(data, exits, training)
    check_objectives(exits, model, training)
    check_training(training, calibration.do_cali, exits.keeps_model, exits.decodes_with_exits)


def check_data_sources(
    data: DataArguments, trains: bool, validates: bool = False, predicts: bool = False
) -> None:
    """Raises UsageError where the splits that are needed have no source, or more than one. trains, validates,
    predicts: which are needed."""
    files = {
        "--train_file": data.train_file,
        "--validation_file": data.validation_file,
        "--test_file": data.test_file,
    }
    given = [flag for flag, path in files.items() if path is not None]
    if data.dataset_name is not None and given:
        raise UsageError(f"--dataset_name and {given[0]} contradict each other; give one source of data")
    if data.dataset_name is not None:
        return
    if not given:
        raise UsageError("no data: give --dataset_name, or --train_file, --validation_file, --test_file")
    for wanted, flag in zip((trains, validates, predicts), files, strict=True):
        if wanted and files[flag] is None:
            raise UsageError(f"{flag} is missing")


def check_numbers(model: ModelArguments, data: DataArguments) -> None:
    """Raises UsageError for numbers that are out of range."""
    if model.dropout_rate is not None and not 0 <= model.dropout_rate < 1:
        raise UsageError(f"--dropout_rate {model.dropout_rate} is outside [0, 1)")
    lowest = {
        "tokenizer_vocab_size": (model.tokenizer_vocab_size, 100),
        "max_source_length": (data.max_source_length, 1),
        "max_target_length": (data.max_target_length, 1),
        "val_max_target_length": (data.val_max_target_length, 2),
        "max_train_samples": (data.max_train_samples, 1),
        "max_eval_samples": (data.max_eval_samples, 1),
        "max_predict_samples": (data.max_predict_samples, 1),
        "num_beams": (data.num_beams, 1),
        "preprocessing_num_workers": (data.preprocessing_num_workers, 0),
    }
    for name, (value, low) in lowest.items():
        if value is not None and value < low:
            raise UsageError(f"--{name} {value} is too small; allowed: {low} and above")


def _check_exits(data: DataArguments, exits: ExitArguments, training) -> None:
    translate_shallow_deep(exits)
    _check_drafts(exits)
    if exits.engine_precision not in (None, *PRECISIONS):
        raise UsageError(
            f"unknown engine precision {exits.engine_precision!r}; known: {', '.join(PRECISIONS)}"
        )
    _check_effects(exits)
    _check_measures(exits, training)
    beams = data.num_beams or training.generation_num_beams or 1
    if exits.decodes_with_exits and beams > 1:
        raise UsageError(f"early exit decodes without beams, got --num_beams {beams}")
    if exits.decodes_with_exits and not training.predict_with_generate:
        raise UsageError("exit flags take effect in generation: add --predict_with_generate")
    _check_sweep(exits, training)
    _ = exits.policies


def _check_effects(exits: ExitArguments) -> None:
    """Raises UsageError for flags that would be ignored."""
    if exits.engine_precision is not None and not exits.decodes_with_exits:
        raise UsageError(
            "--engine_precision has no effect without --deploy_scenario True, --use_early_exit True "
            "or --static_exit_layer"
        )
    if exits.lm_head_screen and not exits.decodes_with_exits:
        raise UsageError(
            "--lm_head_screen has no effect without --deploy_scenario True, --use_early_exit True "
            "or --static_exit_layer"
        )
    if exits.shortlist is not None and not (exits.use_early_exit or exits.static_exit_layer):
        raise UsageError("--shortlist has no effect without --use_early_exit True or --static_exit_layer")
    if exits.shortlist_at_full_depth and exits.shortlist is None:
        raise UsageError("--shortlist_at_full_depth has no effect without --shortlist")
    if exits.use_early_exit:
        return
    of_confidence = ("exit_conf_threshold", "exit_position_temp", "exit_max_layer", "top_propagation")
    given = [name for name in of_confidence if getattr(exits, name) is not None]
    given += ["exit_min_layer"] if exits.exit_min_layer not in (0, 1) else []  # these two forbid nothing
    if given:
        raise UsageError(f"--{given[0]} has no effect without --use_early_exit True")
    if exits.exit_conf_type is not None and not exits.train_meta_cm_head:
        raise UsageError(
            "--exit_conf_type has no effect without --use_early_exit True or --train_meta_cm_head"
        )


def _check_sweep(exits: ExitArguments, training) -> None:
    if exits.is_sweep and not training.do_eval:
        raise UsageError("a sweep, of several thresholds, layers, measures or K, needs --do_eval")
    if exits.is_sweep and not training.predict_with_generate:
        raise UsageError("a sweep (--sweep True) is of decoded texts: add --predict_with_generate")
    if exits.is_sweep and (training.do_train or training.do_predict):
        raise UsageError("a sweep evaluates only: leave out --do_train and --do_predict")
    if exits.retime and not exits.is_sweep:
        raise UsageError(
            "--retime has no effect without a sweep, of several thresholds, layers, measures or K"
        )
    if exits.use_adapt_threshold and training.world_size > 1:
        raise UsageError(
            f"--use_adapt_threshold learns from one text after the other: it does not go with "
            f"{training.world_size} processes"
        )


def _check_drafts(exits: ExitArguments) -> None:
    if exits.verify is not None and not (exits.use_early_exit or exits.static_exit_layer):
        raise UsageError("--verify has no effect without --use_early_exit True or --static_exit_layer")
    needs = {"max_draft": (None, "--verify"), "accept_ratio": ("lenient", "--verify lenient")}
    needs["rollback_threshold"] = ("rollback", "--verify rollback")
    for name, (verification, flag) in needs.items():
        there = exits.verify is not None if verification is None else exits.verify == verification
        if getattr(exits, name) is not None and not there:
            raise UsageError(f"--{name} has no effect without {flag}")


def _check_measure_names(exits: ExitArguments) -> None:
    try:
        for name in exits.measures:
            get_measure(name)
    except ValueError as error:
        raise UsageError(f"--exit_conf_type: {error}") from error


def _check_measures(exits: ExitArguments, training) -> None:
    if exits.exit_head_loss not in HEAD_LOSSES:
        raise UsageError(
            f"unknown --exit_head_loss {exits.exit_head_loss!r}; known: {', '.join(HEAD_LOSSES)}"
        )
    deepest = [name for name in exits.measures if get_measure(name).needs_full_depth]
    if deepest and (training.do_train or training.do_predict):
        raise UsageError(f"--exit_conf_type {deepest[0]} looks at full depth: it is for --do_eval alone")
    if not exits.train_meta_cm_head:
        if exits.share_exit_head or exits.exit_head_loss != "independent":
            raise UsageError("--share_exit_head and --exit_head_loss need --train_meta_cm_head")
        return
    if not training.do_train:
        raise UsageError("--train_meta_cm_head needs --do_train")
    without = [name for name in exits.measures if head_kind(name) is None]
    if without:
        raise UsageError(
            f"--train_meta_cm_head: {without[0]!r} has nothing to train; heads: {', '.join(HEAD_NAMES)}"
        )
    if exits.use_early_exit and len(exits.measures) > 1:
        raise UsageError(
            "--train_meta_cm_head trains several heads, but evaluates the exits of one at a time"
        )
