"""Calibration sets drawn again and again, all draws at once: what `guarantee.py` counts.

Each function gives rows: what was calibrated how, and the share of draws that violate what was promised.
"""

import math
from collections.abc import Callable

import numpy as np
from scipy.special import xlogy
from scipy.stats import binom

from early_exit.bounds import wsr_rows
from early_exit.calibration import TESTS, Promise, chains, pareto_sequence
from early_exit.calibration.monitor import alarms
from early_exit.calibration.promises import expected_losses
from early_exit.calibration.sequential import _BETS

# Losses whose mean is δ: of shape `shape`, in [0, 1].
BOUNDARY: dict[str, Callable] = {
    "0 or 1": lambda random, shape, delta: (random.random(shape) < delta).astype(float),
    "0 or 0.3": lambda random, shape, delta: 0.3 * (random.random(shape) < delta / 0.3),
    "beta, heavy": lambda random, shape, delta: random.beta(delta / 4, (1 - delta) / 4, shape),
    "beta": lambda random, shape, delta: random.beta(2 * delta, 2 * (1 - delta), shape),
    "beta, narrow": lambda random, shape, delta: random.beta(50 * delta, 50 * (1 - delta), shape),
    "uniform to 2δ": lambda random, shape, delta: random.uniform(0, 2 * delta, shape),
    "constant": lambda random, shape, delta: np.full(shape, delta),
}


def p_values(losses: np.ndarray, delta: float, bound: str, level: float) -> np.ndarray:
    """[draws] of losses [draws, n], the bounds of `early_exit.bounds` over rows."""
    n, sums = losses.shape[1], losses.sum(axis=1)
    if bound == "wsr":
        return wsr_rows(losses, delta, level)
    if bound == "binomial":
        return binom.cdf(np.rint(sums), n, delta)
    means = np.minimum(sums / n, delta)
    if bound == "hoeffding":
        return np.exp(-2 * n * (delta - means) ** 2)
    divergence = xlogy(means, means / delta) + xlogy(1 - means, (1 - means) / (1 - delta))
    bentkus = math.e * binom.cdf(np.ceil(sums - 1e-9), n, delta)
    return np.minimum(1, np.minimum(np.exp(-n * divergence), bentkus))


def row(kind: str, what: str, n: int, delta: float, violations: np.ndarray, **more) -> dict:
    """One line of results. violations: [draws] of 0 and 1."""
    rate, draws = float(np.mean(violations)), len(violations)
    error = math.sqrt(rate * (1 - rate) / draws)
    values = {"kind": kind, "what": what, "n": n, "delta": float(delta), "draws": draws}
    return {**values, "violation_rate": rate, "standard_error": error, **more}


def at_the_boundary(bounds, deltas, sizes, draws: int, epsilon: float, random) -> list[dict]:
    """Single tests of losses whose mean is δ: each pass is a violation, at most a share ε."""
    rows = []
    for name, make in BOUNDARY.items():
        for delta in deltas:
            for n in sizes:
                losses = make(random, (draws, n), delta)
                for bound in bounds:
                    if bound == "binomial" and name != "0 or 1":
                        continue
                    passed = p_values(losses, delta, bound, epsilon) <= epsilon
                    rows.append(row("boundary", bound, n, delta, passed, losses=name))
    return rows


class Table:
    """A loss table that stands for the population. losses: [prompts, settings], the safest setting first;
    layers: [settings], None where they are not known."""

    def __init__(self, losses: np.ndarray, layers: np.ndarray | None, epsilon: float, draws: int, seed: int):
        self.losses, self.layers, self.epsilon, self.draws = losses, layers, epsilon, draws
        self._seed = seed

    def drawn(self, n: int) -> np.ndarray:
        """Prompts of each draw, [draws, n], the same for every method."""
        return np.random.default_rng((self._seed, n)).integers(len(self.losses), size=(self.draws, n))

    def row(self, kind: str, what: str, n: int, delta: float, chosen: np.ndarray, violated) -> dict:
        """chosen: [draws] settings, −1 for none; violated: [draws], whether the promise is broken."""
        found = chosen[chosen >= 0]
        more = {"certified_rate": len(found) / len(chosen)}
        if self.layers is not None:  # of full depth where nothing is certified
            more["layers"] = float(np.where(chosen >= 0, self.layers[chosen], self.layers[0]).mean())
        return row(kind, what, n, delta, violated, **more)

    def sequence(self, kind: str, what: str, n: int, delta: float, bound: str, promise: Promise) -> dict:
        """A fixed sequence for a promise."""
        risks, limit = promise.risks(self.losses, delta), promise.limit(delta)
        drawn, alive, chosen = self.drawn(n), np.arange(self.draws), np.full(self.draws, -1)
        for setting in range(risks.shape[1]):
            values = p_values(risks[drawn[alive], setting], limit, bound, self.epsilon)
            alive = alive[values <= self.epsilon]
            chosen[alive] = setting
            if not len(alive):
                break
        bad = broken(self.losses, promise, delta)
        return self.row(kind, what, n, delta, chosen, at(bad, chosen))

    def all_values(self, n: int, delta: float, level: float) -> np.ndarray:
        """p-values of WSR of every setting, [draws, settings]."""
        drawn = self.drawn(n)
        columns = []
        for setting in range(self.losses.shape[1]):
            columns.append(wsr_rows(self.losses[drawn, setting], delta, level))
        return np.array(columns).T

    def tests(self, n: int, delta: float) -> list[dict]:
        """The tests of several settings, by WSR."""
        rows, bad = [], self.losses.mean(axis=0) > delta
        for name in ("fallback", "multi_start", "holm", "bonferroni"):
            level = self.epsilon / TESTS[name].starts(self.losses.shape[1])
            accepted = [TESTS[name].accepted(each, self.epsilon) for each in self.all_values(n, delta, level)]
            rows.append(self.row("test", name, n, delta, last(accepted), any_of(accepted, bad)))
        return rows

    def several_chains(self, n: int, delta: float, lengths: list[int]) -> list[dict]:
        """Chains on all prompts, and Pareto testing on halves: the setting of fewest layers wins."""
        bad, layers = self.losses.mean(axis=0) > delta, self.layers
        values = self.all_values(n, delta, self.epsilon / len(lengths))
        accepted = [chains(each, lengths, self.epsilon) for each in values]
        cheapest = np.array([min(each, key=lambda place: layers[place], default=-1) for each in accepted])
        rows = [self.row("knobs", f"chains of {len(lengths)}", n, delta, cheapest, any_of(accepted, bad))]
        chosen = []
        for prompts in self.drawn(n):
            first, second = self.losses[prompts[: n // 2]], self.losses[prompts[n // 2 :]]
            best = -1
            for setting in pareto_sequence(layers, first.mean(axis=0)):
                if wsr_rows(second[None, :, setting], delta, self.epsilon)[0] > self.epsilon:
                    break
                best = setting
            chosen.append(best)
        return [
            *rows,
            self.row("knobs", "pareto halves", n, delta, np.array(chosen), at(bad, np.array(chosen))),
        ]

    def expectation(self, n: int, delta: float) -> dict:
        """Conformal risk control, whose mean true loss over draws is at most δ; no share of draws is
        promised."""
        drawn = self.drawn(n)
        chosen = np.array([np.sum(expected_losses(self.losses[prompts]) <= delta) - 1 for prompts in drawn])
        means = np.maximum.accumulate(self.losses, axis=1).mean(axis=0)
        result = self.row("promise", "expectation", n, delta, chosen, at(means > delta, chosen))
        result["mean_true_loss"] = float(np.where(chosen >= 0, means[chosen], 0.0).mean())
        return result

    def groups(self, n: int, delta: float) -> dict:
        """The worst of two groups of prompts, one harder than the other."""
        hard = self.losses.mean(axis=1) > np.median(self.losses.mean(axis=1))
        bad = np.maximum(self.losses[hard].mean(axis=0), self.losses[~hard].mean(axis=0)) > delta
        chosen = []
        for prompts in self.drawn(n):
            best = -1
            parts = [prompts[hard[prompts]], prompts[~hard[prompts]]]
            for setting in range(self.losses.shape[1]):
                values = [
                    wsr_rows(self.losses[part, setting][None], delta, self.epsilon)[0] for part in parts
                ]
                if max(values) > self.epsilon:
                    break
                best = setting
            chosen.append(best)
        return self.row("promise", "worst group", n, delta, np.array(chosen), at(bad, np.array(chosen)))

    def sequential(self, most: int, delta: float) -> dict:
        """Stopping when it is sure, of at most so many prompts. n: that it read on average."""
        drawn = self.drawn(most)
        chosen, alive = np.full(self.draws, -1), np.arange(self.draws)
        read = np.zeros(self.draws)
        for setting in range(self.losses.shape[1]):
            parts = [part for part in np.array_split(alive, 20) if len(part)]
            after = np.concatenate([self._passed_after(drawn[part], setting, delta) for part in parts])
            read[alive] = np.maximum(read[alive], np.where(after > 0, after, most))
            alive = alive[after > 0]
            chosen[alive] = setting
            if not len(alive):
                break
        bad = self.losses.mean(axis=0) > delta
        result = self.row("sequential", f"at most {most}", most, delta, chosen, at(bad, chosen))
        return {**result, "prompts_read": float(read.mean())}

    def _passed_after(self, drawn: np.ndarray, setting: int, delta: float) -> np.ndarray:
        """Prompts after which the wealth has reached 1/ε, 0 where it never does."""
        losses = self.losses[drawn, setting][..., None]  # [draws, n, 1]
        wealth = np.exp(np.cumsum(np.log1p(-_BETS / (1 - delta) * (losses - delta)), axis=1)).mean(axis=2)
        reached = wealth >= 1 / self.epsilon
        return np.where(reached.any(axis=1), reached.argmax(axis=1) + 1, 0)


def trying_again(draws: int, n: int, delta: float, tries: list[int], epsilon: float, random) -> list[dict]:
    """The same prompts again and again, at the boundary, until one attempt passes: in another order each
    time, as another seed had it before; with another setting each time, its losses correlated with the
    others'; and the same with ε spent."""
    rows, most = [], max(tries)
    again = np.empty((draws, most))
    values = np.empty((draws, most))
    base = random.beta(2 * delta, 2 * (1 - delta), (draws, n))
    for attempt in range(most):
        order = np.argsort(random.random((draws, n)), axis=1)
        again[:, attempt] = wsr_rows(np.take_along_axis(base, order, axis=1), delta, epsilon)
        fresh = random.beta(2 * delta, 2 * (1 - delta), (draws, n))
        losses = np.where(random.random((draws, n)) < 0.5, base, fresh)
        values[:, attempt] = wsr_rows(losses, delta, epsilon)
    spent = epsilon * 6 / (math.pi * np.arange(1, most + 1)) ** 2
    for count in tries:
        for what, passed in (
            ("reordered by seed (refused now)", again[:, :count] <= epsilon),
            ("other settings, full ε each", values[:, :count] <= epsilon),
            ("other settings, ε spent", values[:, :count] <= spent[:count]),
        ):
            rows.append(row("attempts", what, n, delta, passed.any(axis=1), tries=count))
    return rows


def monitored(
    losses: np.ndarray, delta: float, draws: int, audits: int, epsilon: float, random
) -> list[dict]:
    """False alarms at the boundary, over so many audits; then the delay after a shift of the mean.

    losses: [prompts, settings]; columns near the means stand for what is served."""

    def served(mean: float, shape: tuple[int, int]) -> np.ndarray:
        """Draws of the column whose mean is nearest, scaled to that mean."""
        means = losses.mean(axis=0)
        column = losses[:, np.argmin(np.abs(means - mean))]
        return np.minimum(1, column * mean / column.mean())[random.integers(len(column), size=shape)]

    # Losses cut off at 1 have a mean a little below δ: two-point ones have exactly δ.
    exact = (random.random((draws, audits)) < delta).astype(float)
    rows = [
        row("monitor", f"no shift, {name}", audits, delta, alarms(given, delta, epsilon) > 0)
        for name, given in (("served losses", served(delta, (draws, audits))), ("0 or 1", exact))
    ]
    few = max(2, draws // 8)
    for times in (1.1, 1.3, 1.5):
        before = served(delta * 0.8, (few, 300))
        found = alarms(np.concatenate([before, served(times * delta, (few, 1500))], axis=1), delta, epsilon)
        late = found[found > 300] - 300
        more = {"found": float((found > 300).mean()), "delay": float(np.median(late)) if len(late) else None}
        early = (found > 0) & (found <= 300)
        rows.append(row("monitor", f"shift to {times:g} δ after 300", 1800, delta, early, **more))
    return rows


def broken(losses: np.ndarray, promise: Promise, delta: float) -> np.ndarray:
    """Whether each setting breaks a promise in the population: [settings]."""
    if promise.guarantee == "cvar":
        worst = np.sort(losses, axis=0)[::-1][: max(1, round(promise.tail * len(losses)))]
        return worst.mean(axis=0) > delta
    return promise.risks(losses, delta).mean(axis=0) > promise.limit(delta)


def last(accepted: list[list[int]]) -> np.ndarray:
    """The last setting of each draw, −1 for none."""
    return np.array([each[-1] if each else -1 for each in accepted])


def any_of(accepted: list[list[int]], bad: np.ndarray) -> np.ndarray:
    """Whether any accepted setting of a draw is bad: [draws]."""
    return np.array([any(bad[place] for place in each) for each in accepted])


def at(bad: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Whether the chosen setting of a draw is bad: [draws]; where none is, nothing is."""
    return np.where(chosen >= 0, bad[chosen], False)
