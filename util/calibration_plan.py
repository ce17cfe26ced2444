"""All of a calibration that is fixed before a loss is seen, as one value."""

from dataclasses import dataclass

import numpy as np

from early_exit import DecodingSetting, ExitPolicy
from early_exit.bounds import upper_bound
from early_exit.calibration import (
    TESTS,
    Calibration,
    calibrate,
    pareto_split,
    pareto_test,
    prompts_needed,
)
from models.decoding_cost import bytes_per_token
from util.arguments import ExitArguments
from util.calibration_arguments import CalibrationArguments
from util.errors import UsageError


@dataclass(frozen=True)
class CalibrationPlan:
    """What is tested, for which promise, and how.

    settings: in the order of columns: thresholds fall, for each choice of knobs. thresholds: the grid.
    knobs: as on the command line. The others are flags of `CalibrationArguments`; seed: of the draw of
    prompts.
    """

    measure: str
    consistency: str
    loss: str
    bound: str
    test: str
    epsilon: float
    deltas: list[float]
    settings: list[DecodingSetting]
    thresholds: list[float]
    knobs: list[str]
    seed: int

    def __str__(self) -> str:
        deltas = ", ".join(f"{delta:g}" for delta in self.deltas)
        order = " ".join(f"{threshold:g}" for threshold in self.thresholds)
        knobs = f" × {' '.join(self.knobs)}" if self.knobs else ""
        return (
            f"calibrating {self.measure}: {self.consistency} loss ({self.loss}), δ = {deltas}, ε = "
            f"{self.epsilon:g}, {self.bound}, {self.test}, seed {self.seed}\n"
            f"  thresholds in order: {order}{knobs}"
        )

    def check_model(self, model) -> None:
        """Raises UsageError for settings that the model cannot have."""
        try:
            for setting in self.settings:
                setting.policy.check_vocabulary(model.config.vocab_size)
        except ValueError as error:
            raise UsageError(f"--calibrate_grid: {error}") from error

    def settled(self, losses: np.ndarray) -> bool:
        """Whether no δ can be certified by further columns. losses: [prompts, settings], NaN where a column
        was not evaluated."""
        if not TESTS[self.test].stops_early:
            return False
        evaluated = int((~np.isnan(losses[0])).sum())
        return all(len(self._along_thresholds(losses, delta).accepted) < evaluated for delta in self.deltas)

    def certify(
        self, losses: np.ndarray, layers: list[np.ndarray | None], delta: float, model
    ) -> Calibration:
        """What passes for a δ: along the thresholds, or by Pareto testing where there are more knobs.

        losses: as in `settled`; layers: [prompts] for each column, of what the model runs.
        """
        if not TESTS[self.test].several_knobs:
            return self._along_thresholds(losses, delta)
        pairs = zip(self.settings, layers, strict=True)
        costs = np.array([bytes_per_token(model, setting, ran) for setting, ran in pairs]).T
        return self._across_knobs(losses, costs, delta)

    def prompts_needed(self, losses: list[float], delta: float) -> int | None:
        """About how many prompts δ would take, were all losses like these."""
        return prompts_needed(losses, delta, self.epsilon, self.bound)

    def _along_thresholds(self, losses: np.ndarray, delta: float) -> Calibration:
        thresholds = [setting.policy.threshold for setting in self.settings]
        return calibrate(losses, thresholds, delta, self.epsilon, self.bound, self.test)

    def _across_knobs(self, losses: np.ndarray, costs: np.ndarray, delta: float) -> Calibration:
        chosen, order, p_values = pareto_test(losses, costs, delta, self.epsilon, self.bound)
        place = order.index(chosen) if chosen is not None else 0
        tested = losses[pareto_split(len(losses)) :, order[place]]
        return Calibration(
            certified=chosen is not None,
            index=chosen,
            threshold=None if chosen is None else self.settings[chosen].policy.threshold,
            delta=delta,
            epsilon=self.epsilon,
            bound=self.bound,
            test=self.test,
            n=len(tested),
            p_values=p_values,
            accepted=order[: place + 1] if chosen is not None else [],
            p_value=p_values[place],
            mean_loss=float(tested.mean()),
            upper_bound=upper_bound(tested, self.epsilon, self.bound),
        )


def calibration_plan(exits: ExitArguments, calibration: CalibrationArguments, seed: int) -> CalibrationPlan:
    """Of the flags, which have been checked. Raises UsageError for knobs that exclude each other."""
    try:
        every = [
            _setting(exits, knobs, threshold) for knobs in calibration.knobs for threshold in calibration.grid
        ]
        settings = list(dict.fromkeys(every))  # knobs of drafts change nothing where there are none
    except ValueError as error:
        raise UsageError(f"--calibrate_grid: {error}") from error
    return CalibrationPlan(
        measure=exits.measures[0],
        consistency=calibration.consistency_type,
        loss=calibration.calibrate_loss,
        bound=calibration.calibrate_bound,
        test="pareto" if calibration.calibrate_grid else calibration.calibrate_test,
        epsilon=calibration.calibrate_epsilon,
        deltas=calibration.deltas,
        settings=settings,
        thresholds=calibration.grid,
        knobs=calibration.calibrate_grid or [],
        seed=seed,
    )


def _drafting(exits: ExitArguments, knobs: dict) -> dict:
    """What becomes of tokens that left: fields of a policy, of the flags and of knobs in their place."""
    verify = knobs.get("verify", exits.verify)
    if verify is None:
        return {}
    given = {
        "verify": verify,
        "max_draft": knobs.get("max_draft", (exits.max_draft or [None])[0]),
        "accept_ratio": knobs.get("accept_ratio", exits.accept_ratio),
        "rollback_threshold": exits.rollback_threshold,
    }
    return {name: value for name, value in given.items() if value is not None}


def _setting(exits: ExitArguments, knobs: dict, threshold: float) -> DecodingSetting:
    top_k = knobs.get("top_propagation", exits.propagated[0])
    policy = ExitPolicy(
        measure=exits.measures[0],
        threshold=threshold,
        min_layer=knobs.get("exit_min_layer", exits.exit_min_layer),
        position_temperature=exits.exit_position_temp,
        top_k=top_k,
        screen=exits.lm_head_screen and top_k is None,
        max_layer=knobs.get("exit_max_layer", exits.exit_max_layer),
        **_drafting(exits, knobs),
    )
    return DecodingSetting(policy, knobs.get("engine_precision", exits.engine_precision or "float32"))
