"""What is seen on prompts that no calibration used, and what one would choose without a calibration."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from early_exit.calibration import Promise, confidence_interval


@dataclass(frozen=True)
class HeldOut:
    """Losses [n] of prompts that calibration did not see, in an order that nobody chose, with layers and
    speed measured on them.

    speedup: tokens per second over those of the full model; None where there was nothing to check with.
    groups: [n], where each is promised for.
    """

    losses: list[float]
    block_avg: float
    speedup: float
    groups: list[str] | None = None

    def summary(self, delta: float, promise: Promise | None = None) -> dict[str, Any]:
        """n; what is promised at most δ (the mean loss, by default) as `mean`, with its 95% interval of
        betting (`confidence_interval`), and the same of each group of two prompts or more; and the spread of
        prompts."""
        promise, losses = promise or Promise(), np.array(self.losses)
        everyone = np.array(self.groups or [])
        groups = [
            str(name)
            for name, count in zip(*np.unique(everyone, return_counts=True), strict=True)
            if count > 1
        ]
        return {
            **_kept(losses, delta, promise),
            "groups": {name: _kept(losses[everyone == name], delta, promise) for name in groups},
            "p90": float(np.quantile(losses, 0.9)),
            "max": float(losses.max()),
            "share_above_delta": float((losses > delta).mean()),
        }


def _kept(losses: np.ndarray, delta: float, promise: Promise) -> dict[str, float]:
    """What is promised of some prompts, measured. losses: [n]."""
    risks = promise.risks(losses, delta)
    low, high = (promise.promised(end, delta) for end in confidence_interval(risks))
    return {"n": len(losses), "mean": promise.promised(float(risks.mean()), delta), "low": low, "high": high}


def naive_search(quality: np.ndarray, full: np.ndarray, share: float) -> int:
    """The last column whose mean quality is at least `share` of the full model's: what one does without a
    guarantee. quality: [prompts, columns]; full: [prompts]. −1 where none is."""
    means = quality.mean(axis=0)
    enough = means >= share * full.mean()
    return int(np.flatnonzero(enough)[-1]) if enough.any() else -1
