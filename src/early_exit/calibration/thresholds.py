"""Which settings of a loss table pass for a δ, and what is said of the one that is picked."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from early_exit.bounds import bound_named, check_level, checked_losses, upper_bound, warn_of_order
from early_exit.calibration.multiple_tests import TESTS, chains, threshold_tests
from early_exit.calibration.pareto import labels_of, pareto_sequence, pareto_split


@dataclass(frozen=True)
class Calibration:
    """What calibration found for one δ.

    certified: whether any setting that exits passed; index, threshold: of the one that is picked, None where
    none did. only_full_depth: settings passed, but only such as are full depth, which needs no test.
    p_values: of all settings in the order tested, NaN where the table ends. accepted: their indices.
    shown: the picked setting, or the first one tested that exits; mean_loss, upper_bound, p_value: of this
    setting alone, as if no other had been looked at. n: prompts that the test read. level: what the p-value
    of a setting is compared with when it is the first. steps: settings in the sequence; step: the place of
    the picked one there, from 1. smallest_delta: where none is certified, the smallest δ for which
    some setting that exits passes this test, to 1e-6; None for 1 or where none exits. by_construction: the
    picked setting cannot lose anything, and needed no test; see `with_lossless`.
    """

    certified: bool
    index: int | None
    shown: int
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
    only_full_depth: bool = False
    level: float = math.nan
    step: int | None = None
    steps: int = 0
    smallest_delta: float | None = None
    by_construction: bool = False

    def renumbered(self, numbers: Sequence[int]) -> "Calibration":
        """The same of a larger table, in which the settings have these numbers."""
        accepted = [numbers[index] for index in self.accepted]
        index = None if self.index is None else numbers[self.index]
        return replace(self, accepted=accepted, index=index, shown=numbers[self.shown])


@dataclass(frozen=True)
class Candidates:
    """What is known of settings before their losses are seen. thresholds: [settings]; full_depth: [settings],
    whether no token can leave there; costs: [settings], anything to keep low, or of each prompt too,
    [prompts, settings], where they order the tests."""

    thresholds: Sequence[float]
    full_depth: Sequence[bool]
    costs: Any


def calibrate(
    loss_table,
    thresholds: Sequence[float],
    delta: float,
    epsilon: float,
    bound: str = "wsr",
    test: str = "fixed_sequence",
    full_depth: Sequence[bool] | None = None,
    groups: Sequence[int] | None = None,
) -> Calibration:
    """The lowest threshold whose mean loss is at most δ with probability 1 − ε.

    loss_table: [prompts, thresholds], in the order in which prompts were drawn; a column that was not
    evaluated is NaN throughout and cannot pass. thresholds: [K] in [0, 1], each once, in the order of
    testing: descending, the safest first. test: a name of `threshold_tests`. full_depth: [K], whether no
    token can leave there; by default where the threshold is 1, which no confidence exceeds. groups:
    [prompts], where the promise is for the mean of each group of prompts: the largest p-value of a group
    counts, which needs no correction (Berger 1982, intersection-union test).
    Warns as `early_exit.bounds.p_value`. Raises ValueError for values outside these ranges.
    """
    table = np.asarray(loss_table, dtype=np.float64)
    check_grid(thresholds)
    if table.ndim != 2 or table.shape[1] != len(thresholds):
        raise ValueError(f"a loss table of shape {table.shape} for {len(thresholds)} thresholds")
    if test not in threshold_tests():
        raise ValueError(f"unknown test {test!r}; known: {', '.join(threshold_tests())}")
    if full_depth is None:
        full_depth = [threshold >= 1 for threshold in thresholds]
    starts = TESTS[test].starts(len(thresholds))
    columns = Columns(table, bound, epsilon / starts, groups)
    found = certify(columns, TESTS[test].accepted, full_depth, delta, epsilon, test)
    return picked(found, columns, Candidates(thresholds, full_depth, costs=thresholds))


def calibrate_chains(
    loss_table,
    lengths: Sequence[int],
    settings: Candidates,
    delta: float,
    epsilon: float,
    bound: str = "wsr",
    groups: Sequence[int] | None = None,
) -> Calibration:
    """The cheapest setting of several chains (`multiple_tests.chains`) that passes, on all prompts.

    loss_table: [prompts, settings], chain after chain, the safest setting of each first, NaN for columns that
    were not evaluated; lengths: of the chains. Raises ValueError as `calibrate`.
    """
    table = np.asarray(loss_table, dtype=np.float64)
    accepts = partial(_accepted_chains, lengths)
    columns = Columns(table, bound, epsilon / len(lengths), groups)
    found = certify(columns, accepts, settings.full_depth, delta, epsilon, "chains")
    return picked(found, columns, settings)


def calibrate_pareto(
    loss_table,
    settings: Candidates,
    delta: float,
    epsilon: float,
    bound: str = "wsr",
    groups: Sequence[int] | None = None,
) -> Calibration:
    """The cheapest setting that passes Pareto testing (`pareto.pareto_test`). Arguments as there and in
    `calibrate_chains`; the costs are those of each prompt. Each group is split on its own, so that all are
    tested. Raises ValueError where one has fewer than four prompts."""
    table, costs = np.asarray(loss_table, dtype=np.float64), np.asarray(settings.costs, dtype=np.float64)
    check_groups(groups, "pareto")
    finds = pareto_split(labels_of(groups, len(table)))
    order = pareto_sequence(costs[finds].mean(axis=0), table[finds].mean(axis=0))
    kept = None if groups is None else np.asarray(groups)[~finds]
    tested = Columns(table[~finds][:, order], bound, epsilon, kept)
    in_order = Candidates(
        [settings.thresholds[setting] for setting in order],
        [settings.full_depth[setting] for setting in order],
        costs=range(len(order), 0, -1),
    )
    found = certify(tested, TESTS["pareto"].accepted, in_order.full_depth, delta, epsilon, "pareto")
    return picked(found, tested, in_order).renumbered(order)


class Columns:
    """A loss table [prompts, settings], and the p-values of its columns. level: that bets are aimed at;
    groups: [prompts] or None, see `calibrate`. Raises ValueError for groups of fewer than two prompts."""

    def __init__(self, table: np.ndarray, bound: str, level: float, groups: ArrayLike | None = None):
        self.table, self.level = table, level
        self.bound, self._bound = bound, bound_named(bound)
        check_groups(groups)
        labels = labels_of(groups, len(table))
        self._groups = [labels == label for label in np.unique(labels)]
        self.ordered = self._bound.ordered

    def p_values(self, delta: float) -> list[float]:
        """[settings], NaN for columns that were not evaluated."""
        return [self._of(column, delta) for column in self.table.T]

    def upper_bound(self, index: int, epsilon: float) -> float:
        """Of a column, of its worst group."""
        return max(upper_bound(self.table[group, index], epsilon, self.bound) for group in self._groups)

    def _of(self, column: np.ndarray, delta: float) -> float:
        if np.isnan(column).all():
            return math.nan
        return max(self._bound(checked_losses(column[group]), delta, self.level) for group in self._groups)


@dataclass(frozen=True)
class Accepted:
    """What a test accepts of a table's columns, before one is picked. smallest_delta: as in `Calibration`."""

    p_values: list[float]
    accepted: list[int]
    smallest_delta: float | None
    delta: float
    epsilon: float
    test: str


def certify(
    columns: Columns,
    accepts: Callable[[Sequence[float], float], list[int]],
    full_depth: Sequence[bool],
    delta: float,
    epsilon: float,
    test: str,
) -> Accepted:
    """Runs a test over the columns. accepts: p-values and ε to indices. The others: as in `calibrate`."""
    check_level("delta", delta)
    check_level("epsilon", epsilon)
    p_values = columns.p_values(delta)
    accepted = accepts(p_values, epsilon)
    if columns.ordered:
        _warn_of_columns(columns.table, accepted, delta)

    def exits_at(tried: float) -> bool:
        return any(not full_depth[index] for index in accepts(columns.p_values(tried), epsilon))

    passes = any(not full_depth[index] for index in accepted)
    return Accepted(p_values, accepted, None if passes else _smallest(exits_at), delta, epsilon, test)


def picked(found: Accepted, columns: Columns, settings: Candidates) -> Calibration:
    """Picks the cheapest of the accepted settings that exit; any choice among them holds, since all
    acceptances hold together."""
    table, full_depth = columns.table, settings.full_depth
    exiting = [index for index in found.accepted if not full_depth[index]]
    index = min(exiting, key=lambda setting: settings.costs[setting], default=None)
    shown = first_exiting(table, full_depth) if index is None else index
    losses = checked_losses(table[:, shown])
    return Calibration(
        certified=index is not None,
        index=index,
        shown=shown,
        threshold=None if index is None else float(settings.thresholds[index]),
        delta=found.delta,
        epsilon=found.epsilon,
        bound=columns.bound,
        test=found.test,
        n=len(table),
        p_values=found.p_values,
        accepted=found.accepted,
        p_value=found.p_values[shown],
        mean_loss=math.fsum(losses) / len(losses),
        upper_bound=columns.upper_bound(shown, found.epsilon),
        only_full_depth=bool(found.accepted) and index is None,
        level=columns.level,
        step=None if index is None else index + 1,
        steps=table.shape[1],
        smallest_delta=found.smallest_delta,
    )


def first_exiting(table: np.ndarray, full_depth: Sequence[bool]) -> int:
    """The first evaluated column that exits; the first of all where there is none."""
    evaluated = np.logical_not(np.isnan(table).all(axis=0))
    return next((index for index, deep in enumerate(full_depth) if not deep and evaluated[index]), 0)


def check_groups(groups: ArrayLike | None, test: str | None = None) -> None:
    """Raises ValueError for a group that is too small to be tested. groups: [prompts], None without any.
    test: a name of `knob_tests`; Pareto testing needs two prompts of a group in each half."""
    if groups is None:
        return
    least = 4 if test == "pareto" else 2
    for name, count in zip(*np.unique(np.asarray(groups), return_counts=True), strict=True):
        if count < least:
            raise ValueError(f"{count} prompts of group {str(name)!r}; at least {least} are needed")


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


def _accepted_chains(lengths: Sequence[int], p_values: Sequence[float], epsilon: float) -> list[int]:
    return chains(p_values, lengths, epsilon)


def _warn_of_columns(table: np.ndarray, accepted: list[int], delta: float) -> None:
    """Once for a table: of the first accepted column whose mean is above δ, else of the prompts' means."""
    evaluated = table[:, ~np.isnan(table).all(axis=0)]
    above = [index for index in accepted if table[:, index].mean() > delta]
    if above:
        warn_of_order(table[:, above[0]], delta, stacklevel=5)
    elif evaluated.shape[1]:
        warn_of_order(evaluated.mean(axis=1), stacklevel=5)


def _smallest(passes: Callable[[float], bool]) -> float | None:
    """The smallest δ that passes, to 1e-6; None where 1 − 1e-6 does not. p-values fall as δ grows."""
    low, high = 0.0, 1 - 1e-6
    if not passes(high):
        return None
    while high - low > 1e-6:
        middle = (low + high) / 2
        low, high = (low, middle) if passes(middle) else (middle, high)
    return high
