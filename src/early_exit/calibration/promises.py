"""What may be promised of losses: that their mean is small, or the share of large ones, or the worst of them.

Each promise of a loss L in [0, 1] is one about the mean of a risk in [0, 1] that is made of it, so that every
bound and every test of this package serves it.

References: Rockafellar & Uryasev, Optimization of conditional value-at-risk, 2000 (CVaR as a minimum over t);
Angelopoulos et al., Conformal risk control, 2024 (theorem 1: the expectation).
"""

from dataclasses import dataclass

import numpy as np

GUARANTEES = ("mean", "share", "cvar", "expectation")


@dataclass(frozen=True)
class Promise:
    """A promise with its own numbers. δ is given with each question.

    guarantee: "mean", E L ≤ δ; "share", P(L > above) ≤ δ; "cvar", the mean of the largest `tail` of losses is
    ≤ δ; "expectation", E L ≤ δ on average over calibration draws too, which is weaker.
    above: t in [0, 1), of "share" and "cvar"; for CVaR, which is at most t + E (L − t)₊ / tail for any t,
    below δ, and δ/2 where it is None. tail: in (0, 1]. Raises ValueError outside of these.
    """

    guarantee: str = "mean"
    above: float | None = None
    tail: float = 0.1

    def __post_init__(self):
        if self.guarantee not in GUARANTEES:
            raise ValueError(f"unknown guarantee {self.guarantee!r}; known: {', '.join(GUARANTEES)}")
        if self.guarantee == "share" and self.above is None:
            raise ValueError("the guarantee share needs the loss above which prompts count")
        if self.above is not None and self.guarantee not in ("share", "cvar"):
            raise ValueError(f"the guarantee {self.guarantee} counts no losses above {self.above}")
        if self.above is not None and not 0 <= self.above < 1:
            raise ValueError(f"losses above {self.above}; allowed: [0, 1)")
        if not 0 < self.tail <= 1:
            raise ValueError(f"a tail of {self.tail} of the prompts; allowed: (0, 1]")

    def check(self, delta: float) -> None:
        """Raises ValueError where δ cannot be promised."""
        if self.guarantee == "cvar" and self._above(delta) >= delta:
            raise ValueError(f"CVaR ≤ {delta:g} by losses above {self.above:g}; allowed: below δ")

    def risks(self, losses, delta: float) -> np.ndarray:
        """Of losses, of the same shape, in [0, 1]; NaN stays."""
        losses = np.asarray(losses, dtype=np.float64)
        if self.guarantee == "share":
            return np.where(np.isnan(losses), np.nan, losses > np.float64(self.above))
        if self.guarantee == "cvar":
            above = self._above(delta)
            return np.maximum(losses - above, 0) / (1 - above)
        return losses

    def limit(self, delta: float) -> float:
        """What the mean of the risks has to be at most."""
        if self.guarantee != "cvar":
            return delta
        above = self._above(delta)
        return (delta - above) * self.tail / (1 - above)

    def promised(self, limit: float, delta: float) -> float:
        """The δ that a limit of the mean risk stands for, with the risks made for `delta`; at most 1."""
        if self.guarantee != "cvar":
            return limit
        above = self._above(delta)
        return min(1.0, above + limit * (1 - above) / self.tail)

    def bound(self, bound: str) -> str:
        """The bound to use: counts have an exact one."""
        return "binomial" if self.guarantee == "share" and bound == "wsr" else bound

    def words(self, loss: str) -> str:
        """What is kept at most δ, for a loss by name."""
        if self.guarantee == "share":
            return f"share of prompts with a {loss} above {self.above:g}"
        if self.guarantee == "cvar":
            return f"mean {loss} of the worst {self.tail:.0%} of prompts (CVaR)"
        if self.guarantee == "expectation":
            return f"expected {loss}"
        return f"mean {loss}"

    def _above(self, delta: float) -> float:
        return delta / 2 if self.above is None else self.above


def expected_losses(losses: np.ndarray) -> np.ndarray:
    """What conformal risk control compares with δ for each setting: (n·mean + 1) / (n + 1), [settings].

    losses: [prompts, settings], the safest setting first. They are made to rise along the settings, prompt by
    prompt, which the theorem needs; NaN columns give NaN.
    """
    rising = np.maximum.accumulate(losses, axis=1)
    return (rising.sum(axis=0) + 1) / (len(losses) + 1)
