"""Pareto testing: on some prompts the settings worth testing and their order, on the others the test.

Reference: Laufer-Goldshtein et al., Efficiently controlling multiple risks with Pareto testing, 2023.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from early_exit.bounds import check_level, p_value
from early_exit.calibration.multiple_tests import TESTS


def pareto_front(costs: Sequence[float], losses: Sequence[float]) -> list[int]:
    """Indices of settings that no other one beats in cost without a higher loss, by falling cost, so with
    losses that rise."""
    return _front(costs, losses, ties=False)


def pareto_sequence(costs: Sequence[float], losses: Sequence[float]) -> list[int]:
    """The front, with the settings of higher cost that lose just as much before each: where many settings
    lose nothing on few prompts, the cheapest of them is not the one to begin with."""
    return _front(costs, losses, ties=True)


def _front(costs: Sequence[float], losses: Sequence[float], ties: bool) -> list[int]:
    order = sorted(range(len(costs)), key=lambda index: (costs[index], losses[index]))
    front, best = [], math.inf
    for index in order:
        if losses[index] < best or (ties and losses[index] == best):
            front.append(index)
            best = losses[index]
    return front[::-1]


def labels_of(groups: ArrayLike | None, prompts: int) -> np.ndarray:
    """The group of each prompt, one for all where there are none. [prompts]"""
    return np.zeros(prompts, dtype=int) if groups is None else np.asarray(groups)


def pareto_split(labels: np.ndarray, split: float = 0.5) -> np.ndarray:
    """Which prompts find the front: [prompts] booleans, the first ones of each group; the others are tested.
    labels: [prompts], of `labels_of`."""
    finds = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        finds[members[: max(1, round(split * len(members)))]] = True
    return finds


def pareto_test(
    loss_table, costs, delta: float, epsilon: float, bound: str = "wsr", split: float = 0.5
) -> tuple[int | None, list[int], list[float]]:
    """Several knobs at once: on the first prompts the settings worth testing and their order, on the others a
    fixed sequence through them (Laufer-Goldshtein et al. 2023, algorithm 1, with one risk).

    loss_table, costs: [prompts >= 3, settings], prompts in the order drawn; a cost is anything to keep low,
    such as layers or milliseconds. split: share of the prompts that the front is found on.
    Returns the cheapest certified setting or None, the settings in the order tested, and their p-values on
    the prompts kept for the test. Raises ValueError where fewer than two prompts are left to test on.
    """
    table, costs = np.asarray(loss_table, dtype=np.float64), np.asarray(costs, dtype=np.float64)
    check_level("split", split)
    finds = pareto_split(labels_of(None, len(table)), split)
    if (~finds).sum() < 2:
        raise ValueError(
            f"{len(table)} prompts, of which {finds.sum()} find the settings worth testing; two are needed "
            "to test"
        )
    order = pareto_sequence(costs[finds].mean(axis=0), table[finds].mean(axis=0))
    p_values = [p_value(table[~finds, setting], delta, bound, epsilon) for setting in order]
    accepted = TESTS["pareto"].accepted(p_values, epsilon)
    return (order[accepted[-1]] if accepted else None), order, p_values
