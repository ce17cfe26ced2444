"""All of a calibration that is fixed before a loss is seen, as one value."""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from early_exit import DecodingSetting
from early_exit.calibration import (
    Calibration,
    Candidates,
    Promise,
    PromptsNeeded,
    SequentialTest,
    calibrate,
    calibrate_chains,
    calibrate_expectation,
    calibrate_pareto,
    check_groups,
    pareto_split,
    prompts_for_power,
    test_named,
)
from early_exit.calibration.lossless import with_lossless
from early_exit.calibration.pareto import labels_of
from early_exit.calibration.thresholds import Columns
from early_exit.linear import has_native
from early_exit.models.decoding_cost import bytes_per_token
from util.errors import UsageError


@dataclass(frozen=True)
class ReferenceModel:
    """Another model than the calibrated one, whose full-depth texts in float32 are compared with.

    name: of its checkpoint; fingerprint: of all that these texts depend on.
    """

    name: str
    fingerprint: str


def against(reference: ReferenceModel | None) -> str:
    """What follows the name of a loss, in words: nothing for the calibrated model's own texts."""
    return "" if reference is None else f", against full depth of {reference.name}"


@dataclass(frozen=True)
class CalibrationPlan:
    """What is tested, for which promise, and how.

    settings: in the order of columns: thresholds fall, for each choice of knobs, a chain. lengths: of the
    chains. thresholds: the grid. knobs: of the grid, in words. deploy_delta: the δ whose setting is left for
    `generate`. seed: of the draw of prompts. reference: the model whose texts are compared with; None: the
    calibrated one, whose full depth and exact drafts then lose nothing and are not tested.
    """

    measure: str
    consistency: str
    loss: str
    promise: Promise
    bound: str
    test: str
    epsilon: float
    deltas: list[float]
    deploy_delta: float
    settings: list[DecodingSetting]
    lengths: list[int]
    thresholds: list[float]
    knobs: list[str]
    seed: int
    reference: ReferenceModel | None = None

    def __str__(self) -> str:
        deltas = ", ".join(f"{delta:g}" for delta in self.deltas)
        order = " ".join(f"{threshold:g}" for threshold in self.thresholds)
        knobs = f" × {' '.join(self.knobs)}" if self.knobs else ""
        how = (
            "conformal risk control"
            if self.promise.guarantee == "expectation"
            else f"ε = {self.epsilon:.3g}, {self.bound}, {self.test}"
        )
        deployed = "" if len(self.deltas) == 1 else f" (to deploy: {self.deploy_delta:g})"
        promised = self.promise.words(f"{self.consistency} loss ({self.loss}{against(self.reference)})")
        return (
            f"calibrating {self.measure}: {promised}, δ = {deltas}{deployed}, {how}, seed {self.seed}\n"
            f"  thresholds in order: {order}{knobs}"
        )

    @property
    def chains(self) -> list[list[int]]:
        """The columns of each chain, in the order of testing."""
        ends = np.cumsum(self.lengths).tolist()
        return [list(range(end - length, end)) for end, length in zip(ends, self.lengths, strict=True)]

    def identity(self) -> dict[str, Any]:
        """What makes it this attempt, as JSON values; ε is as asked for, before any spending."""
        values = {name: getattr(self, name) for name in ("consistency", "loss", "bound", "test", "deltas")}
        grid = [setting.to_dict() for setting in self.settings]
        values |= {"promise": asdict(self.promise), "deploy_delta": self.deploy_delta}
        if self.reference is not None:
            values["reference"] = self.reference.fingerprint
        return {**values, "epsilon_asked": self.epsilon, "grid": grid}

    def check_model(self, model) -> None:
        """Raises UsageError for settings that the model cannot have."""
        try:
            for setting in self.settings:
                setting.policy.check_vocabulary(model.config.vocab_size)
                setting.policy.last_layer(model.num_exits)
        except ValueError as error:
            raise UsageError(f"--calibrate_grid: {error}") from error

    def check_groups(self, groups: Sequence[str] | None) -> None:
        """Raises UsageError for groups that are too small to test. groups: [prompts], if any."""
        try:
            check_groups(groups, self.test)
        except ValueError as error:
            raise UsageError(f"--group_column: {error}") from error

    def full_depth(self, num_layers: int) -> list[bool]:
        """For each setting, whether its texts are by construction those that are compared with."""
        own = self.reference is None
        return [own and setting.is_full_model(num_layers) for setting in self.settings]

    def lossless(self, losses: np.ndarray, model) -> list[int]:
        """Columns that exit and whose texts are the full model's by construction: exact drafts in its
        precision, by the compiled kernels. Others round by the size of a block, and may write other texts.
        losses: as in `settled`."""
        if self.reference is not None or not has_native(model.device):
            return []
        layers = model.num_exits
        exact = [setting.precision == "float32" and setting.is_exact(layers) for setting in self.settings]
        return [index for index, known in enumerate(exact) if known and not losses[:, index].any()]

    def settled(
        self, losses: np.ndarray, chain: Sequence[int], model, groups: list[int] | None = None
    ) -> bool:
        """Whether no δ can be certified by further columns of a chain. losses: [prompts, settings], NaN where
        a column was not evaluated; at least one column that is tested is always evaluated."""
        if (
            self.promise.guarantee == "expectation"
            or self.test == "chains"
            or test_named(self.test).stops_early
        ):
            known, deep = self.lossless(losses, model), self.full_depth(model.num_exits)
            evaluated = [index for index in chain if index not in known and not np.isnan(losses[0, index])]
            if all(deep[index] for index in evaluated):
                return False
            level, columns = self._level(model), losses[:, evaluated]
            return all(self._fails(columns, delta, level, groups) for delta in self.deltas)
        return False

    def _fails(self, losses: np.ndarray, delta: float, level: float, groups: list[int] | None) -> bool:
        """Whether some of the columns cannot be accepted at any level up to ε."""
        if self.promise.guarantee == "expectation":
            grid = np.linspace(1, 0, losses.shape[1])
            return len(calibrate_expectation(losses, grid, delta).accepted) < losses.shape[1]
        columns = Columns(self.promise.risks(losses, delta), self.bound, level, groups)
        return any(value > self.epsilon for value in columns.p_values(self.promise.limit(delta)))

    def _level(self, model) -> float:
        """What the p-value of a chain's first setting is compared with."""
        if self.test == "chains":
            nothing = np.zeros((1, len(self.settings)))
            untested = set(self.lossless(nothing, model))
            tested = sum(untested.isdisjoint(chain) for chain in self.chains)
            return self.epsilon / max(1, tested)
        return self.epsilon / test_named(self.test).starts(len(self.settings))

    def certify(
        self,
        losses: np.ndarray,
        layers: list[np.ndarray | None],
        delta: float,
        model,
        groups: list[int] | None = None,
        costs: np.ndarray | None = None,
    ) -> Calibration:
        """What passes for a δ; what cannot lose anything (`lossless`) passes without a test. The setting that
        is picked is the cheapest, in bytes of weights read for a token with the layers that ran; within a
        chain, that is the one of fewest layers. costs: [settings], in the place of these bytes.

        losses: as in `settled`; layers: [prompts] for each column, of what the model runs. groups: [prompts],
        whose means are promised each.
        """
        lossless = self.lossless(losses, model)
        if not lossless:
            return self._certify_tested(losses, layers, delta, model, groups, costs)
        ends = np.cumsum(self.lengths)
        chains = np.searchsorted(ends, np.arange(len(self.settings)), side="right")
        skipped = {chains[index] for index in lossless}  # full depth in these stays out too
        places = [index for index, chain in enumerate(chains) if chain not in skipped]
        found = None
        if places:
            lengths = [length for chain, length in enumerate(self.lengths) if chain not in skipped]
            rest = replace(self, settings=[self.settings[index] for index in places], lengths=lengths)
            own = losses[:, places], [layers[index] for index in places], delta, model, groups
            found = rest._certify_tested(*own, None if costs is None else costs[places])
        if costs is None:
            costs = self._bytes(layers, model).mean(axis=0)
        thresholds = [setting.policy.threshold for setting in self.settings]
        asked = {"delta": delta, "epsilon": self.epsilon, "bound": self.bound, "test": self.test}
        return with_lossless(found, places, lossless, thresholds, costs, **asked)

    def _certify_tested(
        self,
        losses: np.ndarray,
        layers: list[np.ndarray | None],
        delta: float,
        model,
        groups: list[int] | None,
        costs: np.ndarray | None,
    ) -> Calibration:
        """`certify` by losses alone."""
        deep, thresholds = self.full_depth(model.num_exits), [s.policy.threshold for s in self.settings]
        risks, limit = self.promise.risks(losses, delta), self.promise.limit(delta)
        if self.promise.guarantee == "expectation":
            return calibrate_expectation(losses, thresholds, delta, deep)
        if not test_named(self.test).several_knobs:
            found = calibrate(risks, thresholds, limit, self.epsilon, self.bound, self.test, deep, groups)
        else:
            read, shared = self._bytes(layers, model), (limit, self.epsilon, self.bound, groups)
            if self.test == "chains":
                costs = read.mean(axis=0) if costs is None else costs
                found = calibrate_chains(risks, self.lengths, Candidates(thresholds, deep, costs), *shared)
            else:
                found = calibrate_pareto(risks, Candidates(thresholds, deep, read), *shared)
        return self._in_words_of(found, delta)

    def certify_one_by_one(
        self, loss: Callable[[int, int], float], prompts: int, delta: float, num_layers: int
    ) -> Calibration:
        """What a sequential test certifies for a δ, before the prompts run out.

        loss: of a setting on a prompt, by their numbers. n of the result counts the prompts read.
        """
        deep = self.full_depth(num_layers)
        tested = [index for index, full in enumerate(deep) if not full]
        limit = self.promise.limit(delta)
        test = SequentialTest(len(tested), limit, self.epsilon)
        while test.current is not None and test.seen < prompts:
            risk = self.promise.risks([loss(tested[test.current], test.seen)], delta)
            test.update(float(risk[0]))
        accepted = tested[: len(test.accepted_after)]
        place = len(accepted) - 1 if accepted else 0
        read = [loss(tested[place], prompt) for prompt in range(len(test.losses[place]))] if tested else []
        chosen = accepted[-1] if accepted else None
        return Calibration(
            certified=bool(accepted),
            index=chosen,
            shown=tested[place] if tested else 0,
            threshold=None if chosen is None else self.settings[chosen].policy.threshold,
            delta=delta,
            epsilon=self.epsilon,
            bound="betting",
            test=self.test,
            n=max(map(len, test.losses), default=0),
            p_values=[],
            accepted=accepted,
            p_value=self.epsilon if accepted else test.p_value,
            mean_loss=float(np.mean(read)) if read else math.nan,
            upper_bound=math.nan,
            only_full_depth=any(deep) and not accepted,
            step=len(accepted) or None,
            steps=len(tested),
        )

    def rivals(self, found: Calibration, layers: list[np.ndarray | None], model) -> list[int]:
        """Of each chain that has accepted settings the cheapest, to be timed: how fast precisions and heads
        are beside each other is the machine's."""
        if self.test != "chains":
            return []
        costs, deep = self._bytes(layers, model).mean(axis=0), self.full_depth(model.num_exits)
        accepted = [set(found.accepted) & set(chain) for chain in self.chains]
        exiting = [[index for index in sorted(each) if not deep[index]] for each in accepted]
        return [min(each, key=lambda index: costs[index]) for each in exiting if each]

    def _bytes(self, layers: list[np.ndarray | None], model) -> np.ndarray:
        """Read for a token, [prompts, settings], infinite for columns that were not evaluated."""
        prompts = len(next(ran for ran in layers if ran is not None))
        pairs = zip(self.settings, layers, strict=True)
        return np.array(
            [
                np.full(prompts, np.inf) if ran is None else bytes_per_token(model, setting, ran)
                for setting, ran in pairs
            ]
        ).T

    def _in_words_of(self, found: Calibration, delta: float) -> Calibration:
        """With δ, and bounds of what is promised, in the place of those of the risk behind it."""
        smallest = found.smallest_delta
        return replace(
            found,
            delta=delta,
            upper_bound=self.promise.promised(found.upper_bound, delta),
            smallest_delta=None if smallest is None else self.promise.promised(smallest, delta),
        )

    def prompts_needed(
        self, losses: np.ndarray, delta: float, model, groups: list[str] | None = None
    ) -> PromptsNeeded | None:
        """How many prompts δ would take at a setting, were all losses like these, and with groups as many of
        each as here; of the group that needs most. None where nothing is tested. losses: [prompts], of the
        setting; groups: [prompts]."""
        if self.promise.guarantee == "expectation":
            return None
        risks, limit = self.promise.risks(losses, delta), self.promise.limit(delta)
        labels = labels_of(groups, len(losses))
        tested = ~pareto_split(labels) if self.test == "pareto" else np.ones(len(losses), dtype=bool)
        found, level = [], self._level(model)
        for label in np.unique(labels):
            members = labels == label
            share = float((tested & members).mean())
            needed = prompts_for_power(risks[members], limit, level, self.bound, share)
            found.append(needed if groups is None else replace(needed, group=str(label)))
        return max(found, key=lambda needed: math.inf if needed.n is None else needed.n)
