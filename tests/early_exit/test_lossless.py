"""Settings that cannot lose anything, beside a test: against the test alone and a search by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from early_exit.calibration import Candidates, calibrate_chains
from early_exit.calibration.lossless import with_lossless


def found_by_test(losses: np.ndarray, costs, delta: float):
    lengths, full_depth = [2, losses.shape[1] - 2], [False] * losses.shape[1]
    thresholds = np.linspace(0.9, 0.1, losses.shape[1])
    return calibrate_chains(losses, lengths, Candidates(thresholds, full_depth, costs), delta, 0.1)


def asked(delta: float, epsilon: float) -> dict:
    return {"delta": delta, "epsilon": epsilon, "bound": "wsr", "test": "chains"}


@given(
    means=st.lists(st.sampled_from([0.0, 0.1, 0.6]), min_size=4, max_size=4),
    costs=st.lists(st.floats(1, 9), min_size=6, max_size=6, unique=True),
    free=st.sets(st.integers(0, 5), min_size=2, max_size=2),
)
def test_the_cheapest_of_what_passes_and_what_is_free(means, costs, free):
    places, free = [index for index in range(6) if index not in free], sorted(free)
    losses = np.random.default_rng(0).binomial(1, means, size=(80, 4)) * 0.5
    found = found_by_test(losses, [costs[index] for index in places], 0.2)
    thresholds = np.linspace(0.95, 0.05, 6)
    both = with_lossless(found, places, free, thresholds, costs, **asked(0.2, 0.1))
    passing = {places[index] for index in found.accepted} | set(free)
    assert set(both.accepted) == passing
    assert both.certified
    assert both.index == min(passing, key=lambda index: costs[index])
    assert both.by_construction == (both.index in free)
    assert both.threshold == (found.threshold if both.index not in free else thresholds[both.index])
    assert (both.n, both.p_value) == ((0, 0.0) if both.by_construction else (80, found.p_value))
    assert both.p_values == found.p_values


def test_nothing_to_test():
    both = with_lossless(None, [], [0, 1], [0.9, 0.5], [2.0, 1.0], **asked(0.1, 0.05))
    assert (both.index, both.by_construction, both.upper_bound) == (1, True, 0.0)


@pytest.mark.parametrize("delta", [0.01, 0.5])
def test_a_test_that_passes_nothing_leaves_the_free_ones(delta):
    found = found_by_test(np.full((10, 4), 0.9), [1.0, 2.0, 3.0, 4.0], delta)
    thresholds = [0.9, 0.5, 0.9, 0.5, 0.7]
    both = with_lossless(found, [0, 1, 2, 3], [4], thresholds, range(5), **asked(delta, 0.1))
    assert (both.index, both.accepted, both.delta) == (4, [4], delta)
