"""Conformal risk control: the lowest threshold by its expected loss, without an error probability."""

import math
from collections.abc import Sequence

import numpy as np

from early_exit.bounds import check_level, checked_losses
from early_exit.calibration.promises import expected_losses
from early_exit.calibration.thresholds import Calibration, check_grid, first_exiting


def calibrate_expectation(
    loss_table, thresholds: Sequence[float], delta: float, full_depth: Sequence[bool] | None = None
) -> Calibration:
    """The lowest threshold whose loss is at most δ in expectation, over calibration draws and a further
    prompt together: conformal risk control (`promises.expected_losses`), which has no ε and promises less.
    Arguments as in `calibrate`; p-values and the upper bound are NaN."""
    table = np.asarray(loss_table, dtype=np.float64)
    check_grid(thresholds)
    check_level("delta", delta)
    if full_depth is None:
        full_depth = [threshold >= 1 for threshold in thresholds]
    expected = expected_losses(table)
    accepted = [index for index, value in enumerate(expected) if value <= delta]
    exiting = [index for index in accepted if not full_depth[index]]
    index = exiting[-1] if exiting else None
    shown = first_exiting(table, full_depth) if index is None else index
    reachable = [value for value, deep in zip(expected, full_depth, strict=True) if not deep and value < 1]
    losses = checked_losses(table[:, shown])
    return Calibration(
        certified=index is not None,
        index=index,
        shown=shown,
        threshold=None if index is None else float(thresholds[index]),
        delta=delta,
        epsilon=math.nan,
        bound="conformal",
        test="expectation",
        n=len(table),
        p_values=[math.nan] * len(expected),
        accepted=accepted,
        p_value=math.nan,
        mean_loss=math.fsum(losses) / len(losses),
        upper_bound=math.nan,
        only_full_depth=bool(accepted) and index is None,
        step=None if index is None else index + 1,
        steps=len(expected),
        smallest_delta=float(min(reachable)) if reachable else None,
    )
