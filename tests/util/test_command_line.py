"""Flags that would be ignored, or fail after something is written, are refused when they are read."""

from dataclasses import fields

import pytest

from util.calibration_arguments import CalibrationArguments
from util.command_line import parse_arguments
from util.errors import UsageError

EVALUATES = ["--do_eval", "--predict_with_generate"]
EXITS = [*EVALUATES, "--use_early_exit", "True"]
CALIBRATES = ["--do_cali", "True", "--predict_with_generate", "--use_early_exit", "True"]


def parsed(*flags: str):
    needed = ["--model_name_or_path", "a_model", "--dataset_name", "embedded", "--output_dir", "an_output"]
    return parse_arguments([*needed, "--use_cpu", "--report_to", "none", *flags])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([*EVALUATES, "--preprocessing_num_workers", "-1"], "num_workers -1 is too small; allowed: 0 and"),
        (["--do_eval", "--sweep", "True"], "a sweep .* of decoded texts: add --predict_with_generate"),
        ([*EVALUATES, "--exit_min_layer", "2"], "--exit_min_layer has no effect without --use_early_exit"),
        ([*EVALUATES, "--exit_min_layer", "-1"], "--exit_min_layer has no effect without --use_early_exit"),
        ([*EVALUATES, "--exit_position_temp", "4"], "--exit_position_temp has no effect without --use_ea"),
        ([*EXITS, "--exit_position_temp", "-1"], "position temperature -1.0 is not a finite number >= 0"),
        ([*EVALUATES, "--exit_max_layer", "1"], "--exit_max_layer has no effect without --use_early_exit"),
        ([*EVALUATES, "--exit_conf_type", "softmax"], "--exit_conf_type has no effect without --use_early"),
        ([*EVALUATES, "--parallel_gen_token", "False"], "--parallel_gen_token has no effect without --use"),
        ([*CALIBRATES, "--max_eval_samples", "9"], "no effect with --do_cali True.*: give --max_calibrate"),
    ],
)
def test_what_would_be_ignored_or_fail_late_is_refused(flags, message):
    with pytest.raises(UsageError, match=message):
        parsed(*flags)


@pytest.mark.parametrize(
    "flags",
    [
        [*EVALUATES, "--preprocessing_num_workers", "0"],
        [*EVALUATES, "--sweep", "True"],
        [*EVALUATES, "--static_exit_layer", "2", "--exit_min_layer", "0"],
        [*EVALUATES, "--static_exit_layer", "2", "--exit_min_layer", "1"],
        [*EVALUATES, "--calibrate_epsilon", "0.05", "--max_calibrate_samples", "500"],  # the defaults
        [*EXITS, "--exit_position_temp", "4", "--exit_min_layer", "100"],
        [*CALIBRATES, "--max_calibrate_samples", "9"],
    ],
)
def test_what_changes_nothing_or_has_an_effect_is_not(flags):
    parsed(*flags)


@pytest.mark.parametrize("flag", fields(CalibrationArguments), ids=lambda flag: flag.name)
def test_flags_of_a_calibration_need_one(flag):
    value = {bool: "True", int: "9"}.get(type(flag.default), "0.25")
    if flag.name != "do_cali":
        with pytest.raises(UsageError, match=rf"--{flag.name}\b.* needs? --do_cali True"):
            parsed(*EVALUATES, f"--{flag.name}", value)
