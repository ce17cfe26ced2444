"""Learn then Test: which settings of an early-exit decoder keep the mean loss at most δ, with chance 1 − ε.

A loss table holds a loss in [0, 1] for each prompt (rows) and setting (columns). Settings are tested by
p-values (`early_exit.bounds`), and a procedure that controls the chance of even one false acceptance picks
those that pass. What a guarantee is about: the mean over prompts like those calibrated with, for one δ; not
each prompt, and not several δ at once. Settings, their order, ε, and the order of prompts must be fixed
before any loss is seen.

References: Angelopoulos et al., Learn then Test, 2021 (sections 2 and 3; fixed sequence and multi-start,
Bonferroni); Laufer-Goldshtein et al., Efficiently controlling multiple risks with Pareto testing, 2023;
CALM, Schuster et al. 2022, section 4.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from early_exit.bounds import BOUNDS, Bound, check_level, checked_losses, p_value, upper_bound

__all__ = [
    "BOUNDS",
    "TESTS",
    "Bound",
    "Calibration",
    "Test",
    "bonferroni",
    "calibrate",
    "fixed_sequence",
    "multi_start",
    "p_value",
    "pareto_front",
    "pareto_split",
    "pareto_test",
    "prompts_needed",
    "threshold_tests",
    "upper_bound",
]


def fixed_sequence(p_values: Sequence[float], epsilon: float) -> list[int]:
    """Indices accepted: all before the first p-value above ε. The order is part of the test."""
    accepted = []
    for index, value in enumerate(p_values):
        if not value <= epsilon:
            break
        accepted.append(index)
    return accepted


def multi_start(p_values: Sequence[float], epsilon: float, starts: int = 4) -> list[int]:
    """Indices accepted by fixed sequences at level ε/starts from evenly spaced starts: a bad setting at the
    front does not hide good ones behind it. Rising, each once."""
    length = len(p_values)
    starts = min(starts, length)
    accepted = set()
    for number in range(starts):
        first = number * length // starts
        accepted |= {first + index for index in fixed_sequence(p_values[first:], epsilon / starts)}
    return sorted(accepted)


def bonferroni(p_values: Sequence[float], epsilon: float) -> list[int]:
    """Indices accepted: all p-values of at most ε over their number. No order needed, the weakest test."""
    return [index for index, value in enumerate(p_values) if value <= epsilon / len(p_values)]


@dataclass(frozen=True)
class Test:
    """A test of several settings, and what others need to know of it.

    accepted: indices of the settings that pass, from their p-values in order, and ε. label: in verdicts.
    stops_early: nothing passes behind the first setting that does not, so that the others need no losses.
    several_knobs: it takes its order from losses and costs of other prompts (`pareto_test`), not from
    falling thresholds.
    """

    __test__ = False  # pytest takes it for one of its own

    accepted: Callable[[Sequence[float], float], list[int]]
    label: str
    stops_early: bool = False
    several_knobs: bool = False


TESTS: dict[str, Test] = {
    "fixed_sequence": Test(fixed_sequence, "fixed sequence", stops_early=True),
    "multi_start": Test(multi_start, "multi start"),
    "bonferroni": Test(bonferroni, "bonferroni"),
    "pareto": Test(fixed_sequence, "pareto", several_knobs=True),
}


def threshold_tests() -> list[str]:
    """Names of the tests along falling thresholds, those that `calibrate` takes."""
    return [name for name, test in TESTS.items() if not test.several_knobs]


@dataclass(frozen=True)
class Calibration:
    """What calibration found for one δ.

    certified: whether any setting passed; index, threshold: of the lowest threshold that did, None where
    none did. p_values: of all thresholds in the order tested, NaN where the table ends. accepted: their
    indices. mean_loss, upper_bound, p_value: of the certified setting, or of the first one tested where none
    is: its upper bound is then the smallest δ that it would have been certified for.
    """

    certified: bool
    index: int | None
    threshold: float | None
    delta: float
    epsilon: float
    bound: str
    test: str
    n: int
    p_values: list[float]
    accepted: list[int]
    p_value: float
    mean_loss: float
    upper_bound: float


def calibrate(
    loss_table,
    thresholds: Sequence[float],
    delta: float,
    epsilon: float,
    bound: str = "wsr",
    test: str = "fixed_sequence",
) -> Calibration:
    """The lowest threshold whose mean loss is at most δ with probability 1 − ε.

    loss_table: [prompts, thresholds], in the order in which prompts were drawn; a column that was not
    evaluated is NaN throughout and cannot pass. thresholds: [K] in [0, 1], each once, in the order of
    testing: descending, the safest first. test: a name of `threshold_tests`.
    Raises ValueError for values outside these ranges.
    """
    table = np.asarray(loss_table, dtype=np.float64)
    check_grid(thresholds)
    check_level("delta", delta)
    check_level("epsilon", epsilon)
    if table.ndim != 2 or table.shape[1] != len(thresholds):
        raise ValueError(f"a loss table of shape {table.shape} for {len(thresholds)} thresholds")
    if test not in threshold_tests():
        raise ValueError(f"unknown test {test!r}; known: {', '.join(threshold_tests())}")
    p_values = [_column_p_value(column, delta, bound, epsilon) for column in table.T]
    accepted = TESTS[test].accepted(p_values, epsilon)
    index = min(accepted, key=lambda place: thresholds[place], default=None)
    losses = checked_losses(table[:, index or 0])
    return Calibration(
        certified=index is not None,
        index=index,
        threshold=None if index is None else float(thresholds[index]),
        delta=delta,
        epsilon=epsilon,
        bound=bound,
        test=test,
        n=len(table),
        p_values=p_values,
        accepted=accepted,
        p_value=p_values[index or 0],
        mean_loss=math.fsum(losses) / len(losses),
        upper_bound=upper_bound(losses, epsilon, bound),
    )


def check_grid(thresholds: Sequence[float]) -> None:
    """Raises ValueError for thresholds outside [0, 1], repeated, or none at all."""
    if len(thresholds) == 0:
        raise ValueError("no thresholds to calibrate")
    for threshold in thresholds:
        if not 0 <= threshold <= 1:
            raise ValueError(f"threshold {threshold} is outside [0, 1]")
    repeated = {threshold for threshold in thresholds if list(thresholds).count(threshold) > 1}
    if repeated:
        raise ValueError(f"threshold {min(repeated)} is given more than once")


def _column_p_value(column: np.ndarray, delta: float, bound: str, epsilon: float) -> float:
    return math.nan if np.isnan(column).all() else p_value(column, delta, bound, epsilon)


def prompts_needed(losses, delta: float, epsilon: float, bound: str = "wsr") -> int | None:
    """About how many prompts it takes to certify δ, were all losses like these; None where their mean is not
    below δ, or 2²⁰ do not do. Draws from the losses with a fixed seed: an estimate, not a guarantee."""
    losses = checked_losses(losses)
    if math.fsum(losses) / len(losses) >= delta:
        return None
    drawn = np.random.default_rng(0).choice(losses, 2**20)
    low, high = 1, 2
    while p_value(drawn[:high], delta, bound, epsilon) > epsilon:
        low, high = high, 2 * high
        if high > len(drawn):
            return None
    while high - low > 1:
        middle = (low + high) // 2
        if p_value(drawn[:middle], delta, bound, epsilon) <= epsilon:
            high = middle
        else:
            low = middle
    return high


def pareto_front(costs: Sequence[float], losses: Sequence[float]) -> list[int]:
    """Indices of settings that no other one beats in cost without a higher loss, by falling cost, so with
    losses that rise."""
    order = sorted(range(len(costs)), key=lambda index: (costs[index], losses[index]))
    front, best = [], math.inf
    for index in order:
        if losses[index] < best:
            front.append(index)
            best = losses[index]
    return front[::-1]


def pareto_split(prompts: int, split: float = 0.5) -> int:
    """How many of the prompts, the first ones, `pareto_test` finds the front on; the others are tested."""
    return max(1, round(split * prompts))


def pareto_test(
    loss_table, costs, delta: float, epsilon: float, bound: str = "wsr", split: float = 0.5
) -> tuple[int | None, list[int], list[float]]:
    """Several knobs at once: on the first prompts the settings worth testing and their order, on the others a
    fixed sequence through them (Laufer-Goldshtein et al. 2023, algorithm 1, with one risk).

    loss_table, costs: [prompts, settings], prompts in the order drawn; a cost is anything to keep low, such
    as layers or milliseconds. split: share of the prompts that the front is found on.
    Returns the cheapest certified setting or None, the settings in the order tested, and their p-values on
    the prompts kept for the test.
    """
    table, costs = np.asarray(loss_table, dtype=np.float64), np.asarray(costs, dtype=np.float64)
    check_level("split", split)
    first = pareto_split(len(table), split)
    order = pareto_front(costs[:first].mean(axis=0), table[:first].mean(axis=0))
    p_values = [p_value(table[first:, setting], delta, bound, epsilon) for setting in order]
    accepted = TESTS["pareto"].accepted(p_values, epsilon)
    return (order[accepted[-1]] if accepted else None), order, p_values
