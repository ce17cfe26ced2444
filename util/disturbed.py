"""Which points of a sweep were timed while something disturbed the machine.

Of a point's slices (`trainers.timing`) some take longer than others by nature: texts end, rows run to other
layers. That is much alike in all points of a sweep, so that a point stands out whose spread, p90 / p10, is
more than 1.5 times the median spread of the points. Where most points were disturbed none stands out, and a
process that runs beside all of a point slows it evenly: the rule finds neighbours that come and go.
"""

import statistics
from collections.abc import Sequence
from typing import Any

TIMES = "eval_ms_per_token"
_FACTOR = 1.5
NOTE = (
    f"disturbed: the spread of its ms/token, p90 / p10, is over {_FACTOR} times the median of the points: "
    "something else ran on the machine. --retime True times such points again."
)
# What timing a point again replaces.
TIMINGS = (
    TIMES,
    f"{TIMES}_p10",
    f"{TIMES}_p90",
    "eval_tokens_per_second",
    "eval_runtime",
    "eval_samples_per_second",
    "eval_steps_per_second",
)


def spread(metrics: dict[str, Any]) -> float | None:
    """p90 / p10 of a point's times, 1 or more; None for points that were written without."""
    low, high = (metrics.get(f"{TIMES}_{quantile}") for quantile in ("p10", "p90"))
    return high / low if low and high else None


def disturbed(points: Sequence[dict[str, Any]]) -> list[bool]:
    """Whether each point stands out by its spread. points: of a sweep.json."""
    spreads = [spread(point["metrics"]) for point in points]
    known = [each for each in spreads if each is not None]
    limit = _FACTOR * statistics.median_low(known) if known else 0.0
    return [each is not None and each > limit for each in spreads]
