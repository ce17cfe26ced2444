"""Which points of a sweep were timed while something disturbed the machine.

Of a point's slices (`trainers.timing`) some take longer than others by nature: texts end, and where tokens
choose their layers, some texts run more of them than others. So points whose tokens all run to one layer are
compared with each other, and the others with each other: a point stands out whose spread, p90 / p10, is more
than 1.5 times the median spread of its kind. Where most points were disturbed none stands out, and a process
that runs beside all of a point slows it evenly: the rule finds neighbours that come and go.
"""

import statistics
from collections.abc import Sequence
from typing import Any

TIMES = "eval_ms_per_token"
_FACTOR = 1.5
NOTE = (
    f"disturbed: the spread of its ms/token, p90 / p10, is over {_FACTOR} times the median of its kind "
    "(all tokens run to one layer, or not): something else ran on the machine. --retime True times such "
    "points again."
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
    """Whether each point stands out by its spread among those of its kind. points: of a sweep.json."""
    kinds = [_one_layer(point["metrics"]) for point in points]
    spreads = [spread(point["metrics"]) for point in points]
    of_kind = {
        kind: [each for each, its in zip(spreads, kinds, strict=True) if its == kind and each is not None]
        for kind in set(kinds)
    }
    limits = {kind: _FACTOR * statistics.median_low(known) for kind, known in of_kind.items() if known}
    return [each is not None and each > limits[kind] for each, kind in zip(spreads, kinds, strict=True)]


def _one_layer(metrics: dict[str, Any]) -> bool:
    """Whether all tokens ran to the same layer, by the number of them that left at each."""
    return sum(count > 0 for count in metrics.get("eval_exit_layer_counts") or ()) == 1
