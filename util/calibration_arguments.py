"""Flags of calibration: what to certify, by which test, over which settings."""

from dataclasses import dataclass, field
from itertools import product

from early_exit import PRECISIONS, get_measure
from early_exit.bounds import BOUNDS
from early_exit.calibration import MAX_CHAINS, SEQUENTIAL_TESTS, Promise, knob_tests, threshold_tests
from early_exit.policy import VERIFICATIONS
from util.dissimilarity import QUALITY, TEXTUAL
from util.flag import argument, make_lists

CHAIN_TESTS = (*threshold_tests(), *SEQUENTIAL_TESTS)  # of one chain of thresholds
_KNOBS = (
    "engine_precision", "exit_min_layer", "exit_max_layer", "top_propagation", "verify", "max_draft",
    "accept_ratio", "exit_conf_type", "shortlist", "static_exit_layer",
)  # fmt: skip


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
            "help": f"Test of several thresholds: {', '.join(CHAIN_TESTS)}; fixed_sequence by default. "
            f"With --calibrate_grid: {', '.join(knob_tests())}; by default chains for up to {MAX_CHAINS} "
            "combinations, pareto for more."
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
    calibrate_reference: str | None = field(
        default=None,
        metadata={
            "help": "Checkpoint whose full-depth texts, in float32, are compared with, such as the model "
            "before its exits were trained; this model's own by default."
        },
    )
    calibrate_text_file: str | None = field(
        default=None,
        metadata={
            "help": "Where decoded texts are kept, to be read instead of decoded again: by a calibration of "
            "another loss, and by any other that names the file."
        },
    )
    save_calibration: bool = argument(
        False,
        "Leave calibration.json and the certified setting with the checkpoint too: generate then uses it.",
    )
    calibrate_grid: list[str] | None = field(
        default=None,
        metadata={
            "help": "More parameters to search under one guarantee: exit_conf_type=softmax,MLP "
            "engine_precision=float32,int8 exit_min_layer=1,2 "
            "exit_max_layer=1 top_propagation=none,2000 verify=none,lenient max_draft=4,8 "
            "accept_ratio=0.9,0.5 shortlist=none,1000 static_exit_layer=none,4. Their combinations with "
            "--thresholds are searched."
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
    if name in ("top_propagation", "verify", "shortlist", "static_exit_layer") and text == "none":
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
