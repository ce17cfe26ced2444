"""The plan of a calibration, of its flags."""

from dataclasses import replace

from early_exit import DecodingSetting, ExitPolicy
from early_exit.calibration import MAX_CHAINS
from util.calibration_arguments import CalibrationArguments
from util.calibration_plan import CalibrationPlan
from util.check_calibration import check_pareto
from util.errors import UsageError
from util.exit_arguments import ExitArguments


def calibration_plan(exits: ExitArguments, calibration: CalibrationArguments, seed: int) -> CalibrationPlan:
    """Of the flags, which have been checked. Raises UsageError for knobs that exclude each other."""
    settings, lengths = {}, []
    try:
        for knobs in calibration.knobs:
            chain = [_setting(exits, knobs, threshold) for threshold in calibration.grid]
            first = _setting(exits, knobs, 1.0)
            if first.policy.measure is None:  # a static layer for itself, whatever the grid
                chain = [first, *chain]
            # Drafts' knobs change nothing without drafts, and thresholds nothing where nobody is asked.
            new = [each for each in dict.fromkeys(chain) if each not in settings]
            settings |= dict.fromkeys(new)
            lengths += [len(new)] if new else []
    except ValueError as error:
        raise UsageError(f"--calibrate_grid: {error}") from error
    _check_knobs(exits, calibration, settings)
    test = calibration.calibrate_test
    if test is None and calibration.calibrate_grid:
        test = "chains" if len(lengths) <= MAX_CHAINS else "pareto"
    if test == "pareto":
        check_pareto(calibration.max_calibrate_samples)
    measures = dict.fromkeys(setting.policy.measure for setting in settings)
    return CalibrationPlan(
        measure=", ".join(filter(None, measures)) or "static layers",
        consistency=calibration.consistency_type,
        loss=calibration.calibrate_loss,
        promise=calibration.promise,
        bound=calibration.promise.bound(calibration.calibrate_bound),
        test=test or "fixed_sequence",
        epsilon=calibration.calibrate_epsilon,
        deltas=calibration.deltas,
        deploy_delta=calibration.deployed_delta,
        settings=list(settings),
        lengths=lengths,
        thresholds=calibration.grid,
        knobs=calibration.calibrate_grid or [],
        seed=seed,
    )


def _check_knobs(exits: ExitArguments, calibration: CalibrationArguments, settings) -> None:
    """Raises UsageError for a knob with several values that change no setting, such as one of drafts where
    there are none; or for static layers where all settings draft."""
    combinations = calibration.knobs
    asked = any(knobs.get("static_exit_layer") for knobs in combinations)
    if asked and all(setting.policy.static_layer is None for setting in settings):
        raise UsageError("--calibrate_grid: static_exit_layer changes no setting here")
    for name, first in combinations[0].items():
        fixed = [knobs for knobs in combinations if knobs[name] == first]
        if len(fixed) == len(combinations):
            continue
        same = {_setting(exits, knobs, threshold) for knobs in fixed for threshold in calibration.grid}
        if same == set(settings):
            raise UsageError(f"--calibrate_grid: {name} changes no setting here")


def _drafting(exits: ExitArguments, knobs: dict) -> dict:
    """What becomes of tokens that left: fields of a policy, of the flags and of knobs in their place."""
    verify = knobs.get("verify", exits.verify)
    if verify is None:
        return {}
    given = {"verify": verify, "max_draft": knobs.get("max_draft", (exits.max_draft or [None])[0])}
    if verify == "lenient":  # what changes nothing is left out, so that no setting is tested twice
        given["accept_ratio"] = knobs.get("accept_ratio", exits.accept_ratio)
    if verify == "rollback":
        given["rollback_threshold"] = exits.rollback_threshold
    return {name: value for name, value in given.items() if value is not None}


def _setting(exits: ExitArguments, knobs: dict, threshold: float) -> DecodingSetting:
    top_k, drafting = knobs.get("top_propagation", exits.propagated[0]), _drafting(exits, knobs)
    static = knobs.get("static_exit_layer", exits.static_layers[0])
    screen = exits.lm_head_screen and top_k is None
    listed = exits.listed(knobs.get("shortlist", exits.shortlists[0]))
    policy = ExitPolicy(
        measure=knobs.get("exit_conf_type", exits.measures[0]),
        threshold=threshold,
        min_layer=knobs.get("exit_min_layer", exits.exit_min_layer),
        position_temperature=exits.exit_position_temp,
        top_k=top_k,
        screen=screen,
        max_layer=knobs.get("exit_max_layer", exits.exit_max_layer),
        static_layer=None if drafting and "static_exit_layer" in knobs else static,
        **listed,
        **drafting,
    )
    setting = DecodingSetting(policy, knobs.get("engine_precision", exits.engine_precision or "float32"))
    if policy.static_layer is not None and not setting.exits(policy.static_layer):
        plain = ExitPolicy(static_layer=static, screen=screen, **listed)  # nobody has to be asked
        return replace(setting, policy=plain)
    return setting
