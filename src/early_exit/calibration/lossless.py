"""Settings that cannot lose anything, beside those that are tested."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from early_exit.calibration.thresholds import Calibration

# What a result says of a setting that cannot lose anything: nothing was measured.
_NOTHING_LOST: dict[str, Any] = {
    "n": 0,
    "p_value": 0.0,
    "mean_loss": 0.0,
    "upper_bound": 0.0,
    "by_construction": True,
}


def with_lossless(
    tested: Calibration | None,
    numbers: Sequence[int],
    lossless: Sequence[int],
    thresholds: Sequence[float],
    costs: Sequence[float],
    **asked: Any,
) -> Calibration:
    """What a test found, and the settings whose losses are 0 by construction: these need no test and no share
    of ε, and any choice among them and the accepted ones holds. The cheapest is picked.

    tested: of the settings with these `numbers`, and indices into them; None where none was tested. lossless:
    indices, at least one. thresholds, costs: [settings], a cost is anything to keep low. asked: delta,
    epsilon, bound and test, as in `Calibration`. p_values of the result are those of the tested settings
    alone. n of the result counts the prompts of the test, 0 where the picked setting needed none.
    """
    found = None if tested is None else tested.renumbered(numbers)
    accepted: list[int] = found.accepted if found else []
    together = sorted([*accepted, *lossless])
    rival = [found.index] if found and found.index is not None else []
    index = min([*rival, *lossless], key=lambda number: costs[number])
    if found and index in rival:
        return replace(found, accepted=together)
    return Calibration(
        certified=True,
        index=index,
        shown=index,
        threshold=float(thresholds[index]),
        p_values=found.p_values if found else [],
        accepted=together,
        level=found.level if found else math.nan,
        steps=len(thresholds),
        **asked,
        **_NOTHING_LOST,
    )
