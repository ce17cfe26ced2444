"""How well a confidence tells agreeing exits from others: figures for reports, over arrays.

References: Brier 1950; expected calibration error, Naeini et al. 2015.
"""

import numpy as np

_BINS = 10


def quality(confidence: np.ndarray, agrees: np.ndarray) -> dict[str, float | list | None]:
    """Of one layer. confidence: [tokens] in [0, 1]; agrees: [tokens] bool.

    agreement: share that agrees; auroc: probability that an agreeing token has the higher confidence, ties
    count half, None where all or none agree; brier: mean squared error; ece: expected calibration error over
    ten equal bins; reliability: of each bin, `[tokens, mean confidence, share that agrees]`.
    """
    bins = reliability(confidence, agrees)
    error = sum(count * abs(mean - share) for count, mean, share in bins if count)
    return {
        "agreement": float(agrees.mean()),
        "auroc": auroc(confidence, agrees),
        "brier": float(np.mean((confidence - agrees) ** 2)),
        "ece": error / len(agrees),
        "reliability": bins,
    }


def auroc(confidence: np.ndarray, agrees: np.ndarray) -> float | None:
    """Area under the ROC curve by the rank-sum statistic (Mann & Whitney 1947); None without both classes."""
    positive, negative = int(agrees.sum()), int((~agrees).sum())
    if not positive or not negative:
        return None
    from scipy.stats import rankdata  # here: runs without exit heads start half a second earlier

    ranks = rankdata(confidence)
    return float((ranks[agrees].sum() - positive * (positive + 1) / 2) / (positive * negative))


def reliability(confidence: np.ndarray, agrees: np.ndarray) -> list[list]:
    """`[tokens, mean confidence, share that agrees]` of ten equal bins; the means are None in empty ones."""
    numbers = np.minimum((confidence * _BINS).astype(int), _BINS - 1)
    result = []
    for number in range(_BINS):
        inside = numbers == number
        means = (
            (float(confidence[inside].mean()), float(agrees[inside].mean())) if inside.any() else (None, None)
        )
        result.append([int(inside.sum()), *means])
    return result
