"""A threshold that follows the data: the estimator of FREE (Bae et al. 2023, section 4.3).

Confidences of an exit are a mixture of two Beta distributions: of those whose token is full depth's, and of
the others. The threshold is the smallest of a grid from which on a confidence belongs to the former with a
probability above 0.4, weights of the mixture included. Parameters are fitted by moments, as there; a token
whose kind is not known counts for both by its posterior (expectation maximisation), and the distributions
that the fit starts from count as one observation each, so that there is always a fit.
"""

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from scipy.special import betaln, expit

GRID = np.linspace(0.3, 0.9, 10)
LEVEL = 0.4
PROMPTS_PER_UPDATE = 8  # decoded with one threshold, whatever the batch size
FREEZE_AFTER = 300  # prompts, as in FREE
_EDGE = 1e-4  # confidences are kept so far from 0 and 1, where the densities may be infinite
_ROUNDS, _TOLERANCE = 200, 1e-10


@dataclass(frozen=True)
class BetaMixture:
    """weight: the share of exits whose token is full depth's; agree, differ: α and β of their confidences and
    of the others'. The defaults are what a fit starts from."""

    weight: float = 0.5
    agree: tuple[float, float] = (2.0, 1.0)
    differ: tuple[float, float] = (1.0, 2.0)

    def posterior(self, confidences: np.ndarray) -> np.ndarray:
        """The probability [n] that an exit of such a confidence [n] agrees with full depth; float64."""
        clipped = _clipped(confidences)
        odds = _log_density(clipped, *self.agree) - _log_density(clipped, *self.differ)
        return expit(odds + np.log(self.weight) - np.log1p(-self.weight))

    def threshold(self) -> float:
        """The smallest point of the grid from which on the posterior is above the level; the largest point
        where it never is."""
        enough = self.posterior(GRID) > LEVEL
        from_here = np.logical_and.accumulate(enough[::-1])[::-1]
        return float(GRID[int(np.argmax(from_here))] if from_here.any() else GRID[-1])


def fit_mixture(confidences: np.ndarray, agrees: np.ndarray) -> BetaMixture:
    """The mixture of some exits. confidences: [n] in [0, 1]; agrees: [n] float, 1 or 0, NaN where it is not
    known."""
    clipped, known = _clipped(confidences), ~np.isnan(agrees)
    mixture = BetaMixture()
    for _ in range(_ROUNDS):
        shares = np.where(known, agrees, mixture.posterior(clipped))
        before, start = mixture, BetaMixture()
        mixture = BetaMixture(
            weight=float((shares.sum() + 1) / (len(shares) + 2)),
            agree=_by_moments(clipped, shares, start.agree),
            differ=_by_moments(clipped, 1 - shares, start.differ),
        )
        if known.all() or _distance(before, mixture) < _TOLERANCE:
            break
    return mixture


def _clipped(confidences: np.ndarray) -> np.ndarray:
    return np.clip(np.asarray(confidences, dtype=np.float64), _EDGE, 1 - _EDGE)


def _log_density(values: np.ndarray, alpha: float, beta: float) -> np.ndarray:
    return (alpha - 1) * np.log(values) + (beta - 1) * np.log1p(-values) - betaln(alpha, beta)


def _by_moments(values: np.ndarray, weights: np.ndarray, start: tuple[float, float]) -> tuple[float, float]:
    """α and β by the mean and variance of weighted values and one observation with those of the start."""
    alpha, beta = start
    total, first = alpha + beta, alpha / (alpha + beta)
    second = first**2 + alpha * beta / (total**2 * (total + 1))
    count = weights.sum() + 1
    mean = (weights @ values + first) / count
    variance = max((weights @ values**2 + second) / count - mean**2, 1e-9)
    size = mean * (1 - mean) / variance - 1  # positive: values lie within (0, 1)
    return float(mean * size), float((1 - mean) * size)


def _distance(one: BetaMixture, other: BetaMixture) -> float:
    pairs = zip(*((each.weight, *each.agree, *each.differ) for each in (one, other)), strict=True)
    return max(abs(own - its) / abs(its) for own, its in pairs)


@dataclass(frozen=True)
class AdaptiveThreshold:
    """The estimate after some prompts; a value, `updated` gives the next.

    threshold: λ in force, at first the user's. freeze_after: prompts after which it stays, 1 and above.
    prompts: how many it has learned from. confidences, agrees: [n] of their tokens, see `fit_mixture`.
    """

    threshold: float
    freeze_after: int = FREEZE_AFTER
    prompts: int = 0
    mixture: BetaMixture = BetaMixture()
    confidences: np.ndarray = field(default_factory=lambda: np.empty(0), repr=False)
    agrees: np.ndarray = field(default_factory=lambda: np.empty(0), repr=False)

    @property
    def frozen(self) -> bool:
        return self.prompts >= self.freeze_after

    @property
    def next_prompts(self) -> int:
        """How many prompts the threshold in force is for; 0 for all that come."""
        return 0 if self.frozen else min(PROMPTS_PER_UPDATE, self.freeze_after - self.prompts)

    def updated(self, prompts: int, confidences: np.ndarray, agrees: np.ndarray) -> "AdaptiveThreshold":
        """After so many more prompts, whose tokens these are."""
        confidences = np.concatenate([self.confidences, confidences])
        agrees = np.concatenate([self.agrees, agrees])
        mixture = fit_mixture(confidences, agrees)
        about = {"prompts": self.prompts + prompts, "confidences": confidences, "agrees": agrees}
        return replace(self, threshold=mixture.threshold(), mixture=mixture, **about)

    def to_dict(self) -> dict[str, Any]:
        """For result files; JSON values."""
        return {
            "threshold": self.threshold,
            "prompts": self.prompts,
            "tokens": len(self.confidences),
            "agreement": float(np.nanmean(self.agrees)) if len(self.agrees) else None,
            "weight": self.mixture.weight,
            "agree": list(self.mixture.agree),
            "differ": list(self.mixture.differ),
            "frozen": self.frozen,
        }
