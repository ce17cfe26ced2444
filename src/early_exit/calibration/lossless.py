"""Settings that cannot lose anything, beside those that are tested."""

import math
from collections.abc import Sequence
from dataclasses import replace

from early_exit.calibration.thresholds import Calibration


def with_lossless(
    tested: Calibration | None,
    places: Sequence[int],
    lossless: Sequence[int],
    thresholds: Sequence[float],
    costs: Sequence[float],
    delta: float,
    epsilon: float,
    bound: str,
    test: str,
) -> Calibration:
    """What a test found, and the settings whose losses are 0 by construction: these need no test and no share
    of ε, and any choice among them and the accepted ones holds. The cheapest is picked.

    tested: of the settings at `places`, with indices into these; None where none was tested. lossless:
    indices, at least one. thresholds, costs: [settings], a cost is anything to keep low. delta, epsilon,
    bound, test: as in `Calibration`. p_values of the result are those of the tested settings alone. n of the
    result counts the prompts of the test, 0 where the picked setting needed none.
    """
    accepted = [] if tested is None else [places[index] for index in tested.accepted]
    rival = [] if tested is None or tested.index is None else [places[tested.index]]
    index = min([*rival, *lossless], key=lambda place: costs[place])
    together = sorted([*accepted, *lossless])
    if tested is not None and index in rival:
        return replace(tested, index=index, accepted=together)
    return Calibration(
        certified=True,
        index=index,
        threshold=float(thresholds[index]),
        delta=delta,
        epsilon=epsilon,
        bound=bound,
        test=test,
        n=0,
        p_values=[] if tested is None else tested.p_values,
        accepted=together,
        p_value=0.0,
        mean_loss=0.0,
        upper_bound=0.0,
        level=math.nan if tested is None else tested.level,
        steps=len(thresholds),
        by_construction=True,
    )
