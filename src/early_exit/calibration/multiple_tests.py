"""Tests of several settings at once that keep the chance of even one false acceptance at ε.

References: Angelopoulos et al., Learn then Test, 2021 (section 3: Bonferroni, fixed sequence, multi-start);
Holm, A simple sequentially rejective multiple test procedure, 1979; Wiens & Dmitrienko, The fallback
procedure, 2005; Bretz et al., A graphical approach to sequentially rejective multiple test procedures, 2009.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate

MAX_CHAINS = 16  # with more, a split of the prompts finds settings worth testing at a better price
_STARTS = 4


def fixed_sequence(p_values: Sequence[float], epsilon: float) -> list[int]:
    """Indices accepted: all before the first p-value above ε. The order is part of the test."""
    accepted = []
    for index, value in enumerate(p_values):
        if not value <= epsilon:
            break
        accepted.append(index)
    return accepted


def multi_start(p_values: Sequence[float], epsilon: float, starts: int = _STARTS) -> list[int]:
    """Indices accepted by fixed sequences at level ε/starts from evenly spaced starts: a bad setting at the
    front does not hide good ones behind it. Rising, each once."""
    accepted = set()
    for first in _starts(len(p_values), starts):
        level = epsilon / min(starts, len(p_values))
        accepted |= {first + index for index in fixed_sequence(p_values[first:], level)}
    return sorted(accepted)


def fallback(p_values: Sequence[float], epsilon: float, starts: int = _STARTS) -> list[int]:
    """Indices accepted from evenly spaced starts, each with a share of ε, which an accepted setting hands on
    to the next one that is not, from the end to the front. Accepts all that `multi_start` does, and more."""
    length = len(p_values)
    levels = [0.0] * length
    for first in _starts(length, starts):
        levels[first] += epsilon / min(starts, length)
    left = set(range(length))
    while passed := [index for index in sorted(left) if levels[index] and p_values[index] <= levels[index]]:
        index = passed[0]
        left.remove(index)
        if left:
            heir = next(
                other % length for other in range(index + 1, index + length) if other % length in left
            )
            levels[heir] += levels[index]
    return [index for index in range(length) if index not in left]


def bonferroni(p_values: Sequence[float], epsilon: float) -> list[int]:
    """Indices accepted: all p-values of at most ε over their number. No order needed, the weakest test."""
    return [index for index, value in enumerate(p_values) if value <= epsilon / len(p_values)]


def holm(p_values: Sequence[float], epsilon: float) -> list[int]:
    """Indices accepted: the smallest p-value at ε/m, the next at ε/(m − 1), up to the first that is above.
    No order needed, and accepts all that `bonferroni` does."""
    return chains(p_values, [1] * len(p_values), epsilon)


def chains(p_values: Sequence[float], lengths: Sequence[int], epsilon: float) -> list[int]:
    """Indices accepted by several fixed sequences, a chain each, that share ε: Holm's test of whole chains.

    lengths: of the chains, which follow one another in `p_values`; [1, 1, …] is Holm's own. With u chains
    unfinished each goes on at ε/u as far as its p-values allow; one that is accepted to its end leaves
    its share to the others. The chance of a false acceptance is at most ε: at the first one, the chains that
    were finished hold no setting that should fail, so that at most u do, and each has a chance of ε/u at the
    first of its settings that should.
    """
    ends = list(accumulate(lengths))
    reached = [end - length for end, length in zip(ends, lengths, strict=True)]
    moved = True
    while moved:
        moved = False
        unfinished = [chain for chain, end in enumerate(ends) if reached[chain] < end]
        for chain in unfinished:
            while reached[chain] < ends[chain] and p_values[reached[chain]] <= epsilon / len(unfinished):
                reached[chain] += 1
                moved = True
    firsts = [end - length for end, length in zip(ends, lengths, strict=True)]
    return [index for first, end in zip(firsts, reached, strict=True) for index in range(first, end)]


@dataclass(frozen=True)
class Test:
    """A test of several settings, and what others need to know of it.

    accepted: indices of the settings that pass, from their p-values in order, and ε. label: in verdicts.
    starts: of so many settings, how many share ε at first: bets are aimed at that level.
    stops_early: nothing passes behind the first setting that does not, so that the others need no losses.
    several_knobs: it takes several chains of thresholds (`chains`), or its order from losses and costs of
    other prompts (`pareto_test`), not from falling thresholds.
    """

    __test__ = False  # pytest takes it for one of its own

    accepted: Callable[..., list[int]]
    label: str
    starts: Callable[[int], int] = lambda settings: 1
    stops_early: bool = False
    several_knobs: bool = False


TESTS: dict[str, Test] = {
    "fixed_sequence": Test(fixed_sequence, "fixed sequence", stops_early=True),
    "fallback": Test(fallback, "fallback", lambda settings: min(_STARTS, settings)),
    "multi_start": Test(multi_start, "multi start", lambda settings: min(_STARTS, settings)),
    "holm": Test(holm, "Holm", lambda settings: settings),
    "bonferroni": Test(bonferroni, "bonferroni", lambda settings: settings),
    "chains": Test(chains, "a chain for each choice of knobs", several_knobs=True),
    "pareto": Test(fixed_sequence, "pareto", several_knobs=True),
}

# Those that read prompts until they are sure (`sequential.SequentialTest`), and no table.
SEQUENTIAL_TESTS: dict[str, Test] = {"sequential": Test(fixed_sequence, "sequential, a mixture of bets")}


def threshold_tests() -> list[str]:
    """Names of the tests along falling thresholds, those that `calibrate` takes."""
    return [name for name, test in TESTS.items() if not test.several_knobs]


def test_named(name: str) -> Test:
    """Of `TESTS` or `SEQUENTIAL_TESTS`."""
    return TESTS[name] if name in TESTS else SEQUENTIAL_TESTS[name]


test_named.__test__ = False  # pytest's, again


def knob_tests() -> list[str]:
    """Names of the tests over several knobs."""
    return [name for name, test in TESTS.items() if test.several_knobs]


def _starts(length: int, starts: int) -> list[int]:
    starts = min(starts, length)
    return [number * length // starts for number in range(starts)]
