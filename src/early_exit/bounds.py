"""Is a mean loss at most δ? p-values and upper confidence bounds from losses of a calibration set.

Every function assumes losses in [0, 1] that are independent draws of one distribution (for a prompt each:
prompts drawn at random, no duplicates, none chosen after a look at its loss). The null hypothesis is that
their mean exceeds δ; a p-value below ε rejects it with a false alarm in at most a share ε of calibration
sets. What invalidates that: losses reordered after a look at them (WSR depends on the order), the minimum of
p-values of two bounds, a bound or ε chosen to please.

References: Hoeffding 1963; Bates et al., Distribution-free risk-controlling prediction sets, 2021
(Hoeffding–Bentkus, theorem 1 and proposition 4); Clopper & Pearson 1934; Waudby-Smith & Ramdas, Estimating
means of bounded random variables by betting, 2023 (WSR; theorem 3 and section 4).
"""

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.special import xlogy


def hoeffding(losses: np.ndarray, delta: float, epsilon: float) -> float:
    """exp(−2n (δ − mean)₊²)."""
    gap = max(0.0, delta - _mean(losses))
    return math.exp(-2 * len(losses) * gap**2)


def hoeffding_bentkus(losses: np.ndarray, delta: float, epsilon: float) -> float:
    """min(exp(−n kl(min(mean, δ), δ)), e · P(Bin(n, δ) ≤ ⌈sum⌉)); one bound, not two p-values."""
    n, mean = len(losses), min(_mean(losses), delta)
    divergence = xlogy(mean, mean / delta) + xlogy(1 - mean, (1 - mean) / (1 - delta))
    # Rounding can push a whole sum above itself.
    bentkus = math.e * _binomial_cdf(math.ceil(math.fsum(losses) - 1e-9), n, delta)
    return float(min(1.0, math.exp(-n * divergence), bentkus))


def binomial(losses: np.ndarray, delta: float, epsilon: float) -> float:
    """P(Bin(n, δ) ≤ sum), exact for losses that are 0 or 1. Raises ValueError for others."""
    if not np.isin(losses, (0, 1)).all():
        raise ValueError("the binomial bound needs losses that are 0 or 1, such as those of an exact match")
    return _binomial_cdf(round(math.fsum(losses)), len(losses), delta)


def wsr(losses: np.ndarray, delta: float, epsilon: float) -> float:
    """Betting: 1 / max_t Π_{i≤t} (1 − ν_i (L_i − δ)), with bets ν_i that know the losses before i only.

    The product is the wealth of a bettor against "the mean is δ or more": its factors are at least 0 and
    have a mean of at most 1 under that, so that by Ville's inequality it exceeds 1/ε with probability ε at
    most, whatever the bets. ν_i = min(0.99 / (1 − δ), √(2 ln(1/ε) / (n σ̂²_{i−1}))), aimed at the level
    `epsilon`. Mean and variance start as if 20 losses of mean δ and variance δ(1 − δ) had been seen, those of
    a loss of 0 or 1 at the boundary: with a lighter start few small losses make for bets that one loss of 1
    ruins. The p-value is valid at any level.
    """
    return float(wsr_rows(losses[None], delta, epsilon)[0])


_START, _BOLDEST = 20, 0.99


def wsr_rows(losses: np.ndarray, delta: float, epsilon: float) -> np.ndarray:
    """The p-values [draws] of `wsr`, of losses [draws, n]."""
    draws, n = losses.shape
    weights = np.arange(1, n + 1) + _START
    spread = delta * (1 - delta)
    means = (_START * delta + np.cumsum(losses, axis=1)) / weights
    variances = (_START * spread + np.cumsum((losses - means) ** 2, axis=1)) / weights
    before = np.concatenate([np.full((draws, 1), spread), variances[:, :-1]], axis=1)  # σ̂²_{i−1}
    bets = np.minimum(_BOLDEST / (1 - delta), np.sqrt(2 * math.log(1 / epsilon) / (n * before)))
    wealth = np.cumsum(np.log1p(-bets * (losses - delta)), axis=1)
    return np.minimum(1.0, np.exp(-wealth.max(axis=1)))


@dataclass(frozen=True)
class Bound:
    """A p-value, and what others need to know of it.

    p_value: of losses [n] in [0, 1], δ and ε: in [0, 1], and falling as δ grows. label: in verdicts.
    zero_one: whether the losses must be 0 or 1. ordered: whether their order matters.
    """

    p_value: Callable[[np.ndarray, float, float], float]
    label: str
    zero_one: bool = False
    ordered: bool = False

    def __call__(self, losses: np.ndarray, delta: float, epsilon: float) -> float:
        return self.p_value(losses, delta, epsilon)


BOUNDS: dict[str, Bound] = {
    "wsr": Bound(wsr, "WSR betting", ordered=True),
    "hoeffding_bentkus": Bound(hoeffding_bentkus, "Hoeffding–Bentkus"),
    "hoeffding": Bound(hoeffding, "Hoeffding"),
    "binomial": Bound(binomial, "exact binomial", zero_one=True),
}


def p_value(losses, delta: float, bound: str = "wsr", epsilon: float = 0.05) -> float:
    """p-value in (0, 1] of the hypothesis that the mean loss exceeds δ.

    losses: [n >= 2] in [0, 1], in the order in which they were drawn; delta, epsilon: in (0, 1); bound: a
    name of `BOUNDS`. epsilon matters to `wsr` alone, which is strongest at the level that it is told.
    Warns where the order of the losses matters and is not a random one, see `warn_of_order`. Raises
    ValueError outside these ranges and for NaN.
    """
    check_level("delta", delta)
    losses, function = checked_losses(losses), bound_named(bound)
    value = function(losses, delta, _checked_epsilon(epsilon))
    if function.ordered:
        warn_of_order(losses, delta if value <= epsilon else None, stacklevel=3)
    return value


_UNLIKELY = 4.5  # standard errors of a rank correlation: one random order in 150,000 is beyond


def warn_of_order(losses: np.ndarray, passed: float | None = None, stacklevel: int = 2) -> None:
    """Warns where losses [n] can hardly be in the order of a random draw: they rise or fall along it, or
    their mean exceeds the δ that they passed for. Betting on sorted losses holds no level."""
    n = len(losses)
    if passed is not None and _mean(losses) > passed:
        why = f"their mean {_mean(losses):.3f} exceeds δ = {passed:g}, which they pass for all the same"
    elif n > 10 and abs(_rank_correlation(losses)) * math.sqrt(n - 1) > _UNLIKELY:
        why = "they rise or fall along it"
    else:
        return
    warnings.warn(
        f"the losses hardly stand in random order: {why}. Shuffle the prompts once", stacklevel=stacklevel
    )


def _binomial_cdf(successes: int, n: int, share: float) -> float:
    from scipy.stats import binom  # here: runs that calibrate nothing start half a second earlier

    return float(binom.cdf(successes, n, share))


def _rank_correlation(losses: np.ndarray) -> float:
    """Spearman's, with the place; 0 where all losses are the same."""
    from scipy.stats import rankdata  # here, as in `_binomial_cdf`

    ranks = rankdata(losses)
    return 0.0 if np.ptp(ranks) == 0 else float(np.corrcoef(ranks, np.arange(len(losses)))[0, 1])


def upper_bound(losses, epsilon: float, bound: str = "wsr") -> float:
    """The mean is at most this with probability 1 − ε: the smallest δ whose p-value is at most ε, to 1e-6.

    Arguments as in `p_value`; 1 where no δ below 1 qualifies. The p-values of all bounds fall as δ grows.
    """
    losses, function, epsilon = checked_losses(losses), bound_named(bound), _checked_epsilon(epsilon)
    low, high = _mean(losses), 1.0
    while high - low > 1e-6:
        middle = (low + high) / 2
        if function(losses, middle, epsilon) <= epsilon:
            high = middle
        else:
            low = middle
    return high


def confidence_interval(losses, epsilon: float = 0.05, bound: str = "wsr") -> tuple[float, float]:
    """The mean lies within these with probability 1 − ε: an upper bound at ε/2, and a lower one that is 1
    minus the upper bound of 1 − losses. Arguments as in `p_value`; an interval of betting by default
    (Waudby-Smith & Ramdas 2023, section 4), which holds for rare losses too."""
    losses = checked_losses(losses)
    return 1 - upper_bound(1 - losses, epsilon / 2, bound), upper_bound(losses, epsilon / 2, bound)


def check_level(name: str, value: float) -> None:
    """Raises ValueError unless the value lies strictly between 0 and 1."""
    if not 0 < value < 1:
        raise ValueError(f"{name} {value} is outside (0, 1)")


def checked_losses(losses) -> np.ndarray:
    """float64 [n]. Raises ValueError for fewer than two, NaN and values outside [0, 1]."""
    losses = np.asarray(losses, dtype=np.float64)
    if losses.ndim != 1 or len(losses) < 2:
        raise ValueError(f"losses of shape {losses.shape}; at least two prompts, a loss each, are needed")
    outside = losses[~((losses >= 0) & (losses <= 1))]
    if len(outside):
        raise ValueError(f"loss {outside[0]} is outside [0, 1]")
    return losses


def _checked_epsilon(epsilon: float) -> float:
    check_level("epsilon", epsilon)
    return epsilon


def bound_named(bound: str) -> Bound:
    """Of `BOUNDS`. Raises ValueError for an unknown name."""
    if bound not in BOUNDS:
        raise ValueError(f"unknown bound {bound!r}; known: {', '.join(BOUNDS)}")
    return BOUNDS[bound]


def _mean(losses: np.ndarray) -> float:
    return math.fsum(losses) / len(losses)
