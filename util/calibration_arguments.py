"""Flags of calibration: what to certify, by which test, over which settings."""

from dataclasses import dataclass, field
from itertools import product
from pathlib import Path

from early_exit import PRECISIONS, get_measure
from early_exit.bounds import BOUNDS, check_level
from early_exit.calibration import (
    MAX_CHAINS,
    SEQUENTIAL_TESTS,
    Promise,
    check_grid,
    knob_tests,
    threshold_tests,
)
from early_exit.policy import VERIFICATIONS
from util.arguments import ExitArguments, ModelArguments, argument, make_lists
from util.dissimilarity import CONSISTENCY, QUALITY, TEXTUAL
from util.errors import UsageError
from util.run_folder import check_writable

_KNOBS = (
    "engine_precision", "exit_min_layer", "exit_max_layer", "top_propagation", "verify", "max_draft",
    "accept_ratio", "exit_conf_type", "shortlist",
)  # fmt: skip


def _tests() -> list[str]:
    """Names of the tests of one chain of thresholds."""
    return [*threshold_tests(), *SEQUENTIAL_TESTS]


@dataclass
class CalibrationArguments:
    """Which guarantee, and where to look for the setting that keeps it."""

    do_cali: bool = argument(False, "Calibrate the threshold: find the lowest that keeps the loss at most δ.")
    max_calibrate_samples: int = argument(
        500, "Prompts to calibrate with, drawn from the validation examples."
    )
    calibrate_delta: list[float] | None = field(
        default=None, metadata={"help": "δ in (0, 1), the mean loss allowed; several get a verdict each."}
    )
    calibrate_epsilon: float = argument(0.05, "ε in (0, 1): the guarantee holds with probability 1 − ε.")
    thresholds: list[float] | None = field(
        default=None, metadata={"help": "Thresholds to calibrate; tested from the highest on."}
    )
    consistency_type: str = argument(
        "textual", "A loss is textual, distance from the full model's text, or risk, quality below it."
    )
    calibrate_loss: str = argument(
        "rouge", f"Distance ({', '.join(TEXTUAL)}) or quality ({', '.join(QUALITY)}) behind the loss."
    )
    calibrate_bound: str = argument("wsr", f"p-value of a mean loss: {', '.join(BOUNDS)}.")
    calibrate_test: str | None = field(
        default=None,
        metadata={
            "help": f"Test of several thresholds: {', '.join(_tests())}; fixed_sequence by default. "
            f"With --calibrate_grid: {', '.join(knob_tests())}; by default chains for up to {MAX_CHAINS} "
            "choices of knobs, pareto for more."
        },
    )
    guarantee: str = argument(
        "mean",
        "What is kept at most δ: the mean loss; the share of prompts with a loss above --loss_above; cvar, "
        "the mean of the worst --worst_share of prompts; or expectation, the mean over calibration draws "
        "too, which is weaker.",
    )
    loss_above: float | None = field(
        default=None,
        metadata={"help": "t in [0, 1): a loss above it counts, for --guarantee share and cvar."},
    )
    worst_share: float = argument(0.1, "Share of the prompts that --guarantee cvar is about.")
    group_column: str | None = field(
        default=None,
        metadata={"help": "Column of the data that names each prompt's group: the promise holds for each."},
    )
    deploy_delta: float | None = field(
        default=None,
        metadata={"help": "The δ whose setting `generate` uses, if certified; the first one by default."},
    )
    calibrate_epsilon_spending: bool = argument(
        False,
        "The k-th attempt on the same prompts gets ε·6/(π²k²), so that all attempts together keep ε.",
    )
    save_calibration: bool = argument(
        False,
        "Leave calibration.json and the certified setting with the checkpoint too: generate then uses it.",
    )
    calibrate_grid: list[str] | None = field(
        default=None,
        metadata={
            "help": "More knobs under one guarantee: exit_conf_type=softmax,MLP "
            "engine_precision=float32,int8 exit_min_layer=1,2 "
            "exit_max_layer=1 top_propagation=none,2000 verify=none,lenient max_draft=4,8 "
            "accept_ratio=0.9,0.5 shortlist=none,1000. Their combinations with --thresholds are searched."
        },
    )

    def __post_init__(self):
        make_lists(self, "calibrate_delta", "thresholds", "calibrate_grid")

    @property
    def deltas(self) -> list[float]:
        """The δ to calibrate for, as given and each once; 0.1 if none is."""
        return list(dict.fromkeys(self.calibrate_delta or [0.1]))

    @property
    def deployed_delta(self) -> float:
        """The δ whose setting is left for `generate`, named before any loss is seen."""
        return self.deltas[0] if self.deploy_delta is None else self.deploy_delta

    @property
    def promise(self) -> Promise:
        """What is promised. Raises ValueError for numbers that do not fit it."""
        return Promise(self.guarantee, self.loss_above, self.worst_share)

    @property
    def grid(self) -> list[float]:
        """Thresholds in the order of testing; 1.0, 0.98, … 0.9, 0.85, … 0.05 if none are given: close
        together where most tokens' confidences are."""
        if self.thresholds is None:
            percents = [*range(100, 90, -2), *range(90, 0, -5)]
            return [percent / 100 for percent in percents]
        return sorted(self.thresholds, reverse=True)

    @property
    def knobs(self) -> list[dict]:
        """`engine_precision=float32,int8 exit_min_layer=1,2` → all combinations; `{}` alone without any.

        Raises ValueError for unknown knobs and values.
        """
        knobs = {}
        for text in self.calibrate_grid or []:
            name, _, values = text.partition("=")
            if name not in _KNOBS:
                known = ", ".join(_KNOBS)
                raise ValueError(f"--calibrate_grid {text!r}: unknown knob {name!r}; known: {known}")
            knobs[name] = [_value(name, value) for value in values.split(",")]
        return [dict(zip(knobs, values, strict=True)) for values in product(*knobs.values())]


def _value(name: str, text: str) -> str | int | float | None:
    if name == "engine_precision":
        if text not in PRECISIONS:
            known = ", ".join(PRECISIONS)
            raise ValueError(f"--calibrate_grid: unknown precision {text!r}; known: {known}")
        return text
    if name == "exit_conf_type":
        get_measure(text)
        return text
    if name in ("top_propagation", "verify", "shortlist") and text == "none":
        return None
    if name == "verify":
        if text not in VERIFICATIONS:
            known = ", ".join(("none", *VERIFICATIONS))
            raise ValueError(f"--calibrate_grid: unknown verify {text!r}; known: {known}")
        return text
    if name == "accept_ratio":
        try:
            return float(text)
        except ValueError as error:
            raise ValueError(f"--calibrate_grid: accept_ratio {text!r} is not a number") from error
    if not text.isdigit():
        raise ValueError(f"--calibrate_grid: {name} {text!r} is not a whole number from 0 on")
    return int(text)


def check_calibration(
    calibration: CalibrationArguments, exits: ExitArguments, model: ModelArguments, training
) -> None:
    """Raises UsageError for flags that are out of range or contradict each other."""
    if not calibration.do_cali:
        if calibration.calibrate_delta or calibration.thresholds or calibration.calibrate_grid:
            raise UsageError("--calibrate_delta, --thresholds and --calibrate_grid need --do_cali True")
        if calibration.save_calibration:
            raise UsageError("--save_calibration needs --do_cali True")
        if calibration.deploy_delta is not None or calibration.calibrate_epsilon_spending:
            raise UsageError("--deploy_delta and --calibrate_epsilon_spending need --do_cali True")
        return
    if training.do_train or training.do_eval or training.do_predict:
        raise UsageError("--do_cali calibrates only: leave out --do_train, --do_eval and --do_predict")
    if not exits.use_early_exit or len(exits.measures) > 1 or exits.exit_conf_threshold is not None:
        raise UsageError(
            "--do_cali needs --use_early_exit True with one --exit_conf_type, and --thresholds instead of "
            "--exit_conf_threshold"
        )
    if exits.top_propagation is not None and len(exits.propagated) > 1:
        raise UsageError("--do_cali: several K are a knob: --calibrate_grid top_propagation=none,2000")
    if len(exits.shortlists) > 1:
        raise UsageError("--do_cali: several shortlists are a knob: --calibrate_grid shortlist=none,1000")
    if exits.use_adapt_threshold:
        raise UsageError(
            "--do_cali: --use_adapt_threshold changes the threshold while it runs: freeze it first, in an "
            "evaluation, and calibrate the threshold in eval_adapt_threshold with --thresholds"
        )
    if calibration.max_calibrate_samples < 2:
        raise UsageError(
            f"--max_calibrate_samples {calibration.max_calibrate_samples} is too small; allowed: 2 and above"
        )
    try:
        for delta in calibration.deltas:
            check_level("--calibrate_delta", delta)
        check_level("--calibrate_epsilon", calibration.calibrate_epsilon)
        check_grid(calibration.grid)
        knobs = calibration.knobs
        for delta in calibration.deltas:
            calibration.promise.check(delta)
    except ValueError as error:
        raise UsageError(str(error)) from error
    for measure in {
        exits.measures[0],
        *(each["exit_conf_type"] for each in knobs if "exit_conf_type" in each),
    }:
        if get_measure(measure).needs_full_depth:
            raise UsageError(f"--exit_conf_type {measure} looks at full depth: it is for --do_eval alone")
    if calibration.deployed_delta not in calibration.deltas:
        raise UsageError(
            f"--deploy_delta {calibration.deploy_delta:g} is none of --calibrate_delta "
            f"{' '.join(f'{delta:g}' for delta in calibration.deltas)}"
        )
    _check_names(calibration)
    _check_overlaps(calibration, exits)
    if calibration.save_calibration:
        _check_checkpoint(model.model_name_or_path)


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
        ("calibrate_test", knob_tests() if calibration.calibrate_grid else _tests()),
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
