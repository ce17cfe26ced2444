"""Whether the flags of a calibration fit together."""

from dataclasses import fields
from pathlib import Path

from early_exit import get_measure
from early_exit.bounds import BOUNDS, check_level
from early_exit.calibration import SEQUENTIAL_TESTS, check_grid, knob_tests
from util.arguments import ModelArguments
from util.calibration_arguments import CHAIN_TESTS, CalibrationArguments
from util.dissimilarity import CONSISTENCY
from util.errors import UsageError
from util.exit_arguments import ExitArguments
from util.run_folder import check_writable


def check_calibration(
    calibration: CalibrationArguments, exits: ExitArguments, model: ModelArguments, training
) -> None:
    """Raises UsageError for flags that are out of range or contradict each other."""
    if not calibration.do_cali:
        _check_unused(calibration)
        return
    if training.do_train or training.do_eval or training.do_predict:
        raise UsageError("--do_cali calibrates only: leave out --do_train, --do_eval and --do_predict")
    _check_exits(exits)
    _check_numbers(calibration)
    measures = {exits.measures[0], *(each.get("exit_conf_type") for each in calibration.knobs)} - {None}
    for measure in measures:
        if get_measure(measure).needs_full_depth:
            raise UsageError(f"--exit_conf_type {measure} looks at full depth: it is for --do_eval alone")
    _check_names(calibration)
    _check_overlaps(calibration, exits)
    _check_tests(calibration)
    if calibration.save_calibration:
        _check_checkpoint(model.model_name_or_path)


def _check_unused(calibration: CalibrationArguments) -> None:
    """Raises UsageError for flags of a calibration in a run that does not calibrate."""
    if calibration.calibrate_delta or calibration.thresholds or calibration.calibrate_grid:
        raise UsageError("--calibrate_delta, --thresholds and --calibrate_grid need --do_cali True")
    for flag in fields(calibration):
        if flag.name != "do_cali" and getattr(calibration, flag.name) != flag.default:
            raise UsageError(f"--{flag.name} needs --do_cali True")


def _check_exits(exits: ExitArguments) -> None:
    if not exits.use_early_exit or len(exits.measures) > 1 or exits.exit_conf_threshold is not None:
        raise UsageError(
            "--do_cali needs --use_early_exit True with one --exit_conf_type, and --thresholds instead of "
            "--exit_conf_threshold"
        )
    if exits.top_propagation is not None and len(exits.propagated) > 1:
        raise UsageError("--do_cali: several K are a knob: --calibrate_grid top_propagation=none,2000")
    if len(exits.shortlists) > 1:
        raise UsageError("--do_cali: several shortlists are a knob: --calibrate_grid shortlist=none,1000")
    if len(exits.static_exit_layer or []) > 1 or exits.named_layers is not None:
        given = " ".join(exits.static_exit_layer or [])
        raise UsageError(
            f"--do_cali takes one --static_exit_layer, a number, not {given}; several are a knob: "
            "--calibrate_grid static_exit_layer=none,4"
        )
    if exits.use_adapt_threshold:
        raise UsageError(
            "--do_cali: --use_adapt_threshold changes the threshold while it runs: freeze it first, in an "
            "evaluation, and calibrate the threshold in eval_adapt_threshold with --thresholds"
        )


def _check_numbers(calibration: CalibrationArguments) -> None:
    if calibration.max_calibrate_samples < 2:
        raise UsageError(
            f"--max_calibrate_samples {calibration.max_calibrate_samples} is too small; allowed: 2 and above"
        )
    try:
        for delta in calibration.deltas:
            check_level("--calibrate_delta", delta)
            calibration.promise.check(delta)
        check_level("--calibrate_epsilon", calibration.calibrate_epsilon)
        check_grid(calibration.grid)
        _ = calibration.knobs
    except ValueError as error:
        raise UsageError(str(error)) from error
    if calibration.deployed_delta not in calibration.deltas:
        raise UsageError(
            f"--deploy_delta {calibration.deploy_delta:g} is none of --calibrate_delta "
            f"{' '.join(f'{delta:g}' for delta in calibration.deltas)}"
        )


def _check_checkpoint(name: str | None) -> None:
    """Whether the verdict can be left with the checkpoint."""
    folder = Path(name or "")
    if name is None or not (folder / "config.json").is_file():
        raise UsageError(f"--save_calibration True writes into a checkpoint's folder, and {name!r} is none")
    check_writable(folder, "--save_calibration True")


def _check_names(calibration: CalibrationArguments) -> None:
    consistency = calibration.consistency_type
    for flag, names in (
        ("consistency_type", CONSISTENCY),
        ("calibrate_loss", CONSISTENCY.get(consistency, ())),
        ("calibrate_bound", BOUNDS),
        ("calibrate_test", knob_tests() if calibration.calibrate_grid else CHAIN_TESTS),
    ):
        value = getattr(calibration, flag)
        if value is not None and value not in names:
            raise UsageError(f"unknown --{flag} {value!r}; known: {', '.join(names)}")
    losses, bound = CONSISTENCY[consistency], calibration.calibrate_bound
    if calibration.guarantee == "share":
        return
    if BOUNDS[bound].zero_one and not losses[calibration.calibrate_loss].zero_one:
        fitting = [name for name, each in losses.items() if each.zero_one]
        known = f"--calibrate_loss {', '.join(fitting)}" if fitting else f"{consistency} losses are not"
        raise UsageError(f"--calibrate_bound {bound} needs losses of 0 or 1: {known}")


def _check_overlaps(calibration: CalibrationArguments, exits: ExitArguments) -> None:
    """Raises UsageError for flags that would be ignored."""
    flags = {
        "engine_precision": exits.engine_precision,
        "exit_min_layer": exits.exit_min_layer or None,
        "exit_max_layer": exits.exit_max_layer,
        "top_propagation": None if exits.top_propagation is None else exits.propagated[0],
        "shortlist": None if exits.shortlist is None else exits.shortlists[0],
        "static_exit_layer": exits.static_layers[0],
        "verify": exits.verify,
        "max_draft": (exits.max_draft or [None])[0],
        "accept_ratio": exits.accept_ratio,
        "exit_conf_type": exits.measures[0] if exits.exit_conf_type else None,
    }
    knobs = calibration.knobs
    for name in {name for each in knobs for name in each}:
        values = {each[name] for each in knobs}
        if flags[name] is not None and flags[name] not in values:
            raise UsageError(
                f"--{name} {flags[name]} is not among the values of {name} in --calibrate_grid, which stand "
                "in its place"
            )


def _check_tests(calibration: CalibrationArguments) -> None:
    """Raises UsageError for flags that a test, or the absence of one, does not go with."""
    if calibration.guarantee == "expectation":
        given = {
            "--calibrate_grid": calibration.calibrate_grid,
            "--calibrate_test": calibration.calibrate_test,
            "--group_column": calibration.group_column,
            "--calibrate_epsilon_spending": calibration.calibrate_epsilon_spending,
        }
        for name in (name for name, value in given.items() if value):
            raise UsageError(f"--guarantee expectation is not tested: it does not go with {name}")
    if calibration.calibrate_test in SEQUENTIAL_TESTS:
        if calibration.calibrate_bound != "wsr" or calibration.guarantee == "share":
            raise UsageError("--calibrate_test sequential bets on its own: it does not go with other bounds")
        if calibration.group_column is not None:
            raise UsageError("--calibrate_test sequential does not go with --group_column")
    if calibration.calibrate_grid and calibration.calibrate_test == "pareto":
        check_pareto(calibration.max_calibrate_samples)


def check_pareto(prompts: int) -> None:
    """Raises UsageError where both halves cannot hold two prompts."""
    if prompts < 4:
        raise UsageError(
            f"--max_calibrate_samples {prompts} is too small for Pareto testing, which tests on half "
            f"of them; "
            "allowed: 4 and above"
        )
