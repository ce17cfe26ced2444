"""How many prompts a δ would take, estimated from losses that are there."""

from dataclasses import dataclass

import numpy as np

from early_exit.bounds import bound_named, checked_losses, confidence_interval, wsr_rows

POWER = 0.9
_DRAWS, _MOST, _RESAMPLES = 200, 2**14, 200


@dataclass(frozen=True)
class PromptsNeeded:
    """n: prompts for which a setting with losses like these passes in 9 of 10 draws, None where 2¹⁴ do not
    do or the mean is not below δ. low, high: 90% range of n over resampled losses (bootstrap), high None
    where it has no end. mean_low, mean_high: 95% interval of the mean itself (`confidence_interval`):
    whether any number of prompts would do is known only where δ lies outside of it. group: that this is
    about, where each is promised for."""

    n: int | None
    low: int | None
    high: int | None
    mean_low: float
    mean_high: float
    group: str | None = None


def prompts_needed(losses, delta: float, epsilon: float, bound: str = "wsr") -> int | None:
    """How many prompts it takes to certify δ in 9 of 10 draws, were all losses like these; None where their
    mean is not below δ, or 2¹⁴ do not do. Simulated with a fixed seed: an estimate, not a guarantee."""
    losses = checked_losses(losses)
    if losses.mean() >= delta:
        return None
    drawn = np.random.default_rng(0).choice(losses, (_DRAWS, _MOST if np.ptp(losses) else 1))
    low, high = 1, 2
    while _power(drawn, high, delta, epsilon, bound) < POWER:
        low, high = high, 2 * high
        if high > _MOST:
            return None
    while high - low > max(1, low // 50):  # to 2%: it is an estimate
        middle = (low + high) // 2
        enough = _power(drawn, middle, delta, epsilon, bound) >= POWER
        low, high = (low, middle) if enough else (middle, high)
    return high


def prompts_for_power(
    losses, delta: float, level: float, bound: str = "wsr", tested_share: float = 1.0
) -> PromptsNeeded:
    """`prompts_needed` with its range.

    level: what the p-value of the setting is compared with. tested_share: of the prompts that the test reads,
    where others find what is worth testing: n counts all. The range takes the resamples at the 5th and the
    95th percentile of how far the mean lies below δ, in standard deviations.
    """
    losses = checked_losses(losses)
    draws = np.random.default_rng(0).choice(losses, (_RESAMPLES, len(losses)))
    gaps = (delta - draws.mean(axis=1)) / np.maximum(draws.std(axis=1), 1e-6)
    order = np.argsort(gaps)
    hard, easy = (draws[order[int(quantile * (_RESAMPLES - 1))]] for quantile in (0.05, 0.95))
    found = [prompts_needed(each, delta, level, bound) for each in (losses, easy, hard)]
    n, low, high = (None if each is None else int(np.ceil(each / tested_share)) for each in found)
    return PromptsNeeded(n, low, high, *confidence_interval(losses))


def _power(drawn: np.ndarray, n: int, delta: float, epsilon: float, bound: str) -> float:
    """Share of draws of n prompts that pass. drawn: [draws, 2¹⁴], or [draws, 1] of one loss alone."""
    rows = np.repeat(drawn[:1], n, axis=1) if drawn.shape[1] == 1 else drawn[:, :n]
    if bound == "wsr":
        return float((wsr_rows(rows, delta, epsilon) <= epsilon).mean())
    function = bound_named(bound)
    return float(np.mean([function(row, delta, epsilon) <= epsilon for row in rows]))
