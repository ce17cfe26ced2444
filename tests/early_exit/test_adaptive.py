"""The threshold that adapts: densities of scipy, and expectation maximisation as a loop over single
tokens."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from early_exit.adaptive import GRID, LEVEL, AdaptiveThreshold, BetaMixture, fit_mixture

shapes = st.tuples(st.floats(0.3, 20), st.floats(0.3, 20))
exits = st.lists(
    st.tuples(st.floats(0, 1, width=32), st.sampled_from([0.0, 1.0, math.nan])), min_size=1, max_size=30
)


@given(weight=st.floats(0.01, 0.99), agree=shapes, differ=shapes, confidence=st.floats(1e-3, 1 - 1e-3))
def test_the_posterior_is_bayes(weight, agree, differ, confidence):
    likely = weight * stats.beta.pdf(confidence, *agree)
    other = (1 - weight) * stats.beta.pdf(confidence, *differ)
    found = BetaMixture(weight, agree, differ).posterior(np.array([confidence]))[0]
    assert found == pytest.approx(likely / (likely + other), rel=1e-6, abs=1e-12)


def naive_fit(pairs) -> tuple[float, tuple, tuple]:
    """One token after the other, until nothing changes."""
    weight, kinds = 0.5, [(2.0, 1.0), (1.0, 2.0)]
    clipped = [min(max(confidence, 1e-4), 1 - 1e-4) for confidence, _ in pairs]
    for _ in range(200):
        shares = []
        for value, (_, label) in zip(clipped, pairs, strict=True):
            if math.isnan(label):
                dense = [stats.beta.pdf(value, *kind) for kind in kinds]
                together = weight * dense[0] + (1 - weight) * dense[1]
                label = weight * dense[0] / together
            shares.append(label)
        before = [weight, *kinds[0], *kinds[1]]
        weight = (sum(shares) + 1) / (len(shares) + 2)
        kinds = [
            moments(clipped, shares, stats.beta(2, 1)),
            moments(clipped, [1 - share for share in shares], stats.beta(1, 2)),
        ]
        now = [weight, *kinds[0], *kinds[1]]
        if max(abs(old - new) / abs(new) for old, new in zip(before, now, strict=True)) < 1e-10:
            break
    return weight, *kinds


def moments(values, weights, start) -> tuple[float, float]:
    count = math.fsum(weights) + 1
    mean = (math.fsum(w * v for w, v in zip(weights, values, strict=True)) + start.mean()) / count
    spread = math.fsum(w * (v - mean) ** 2 for w, v in zip(weights, values, strict=True))
    variance = (spread + start.var() + (start.mean() - mean) ** 2) / count
    size = mean * (1 - mean) / variance - 1
    return mean * size, (1 - mean) * size


@given(pairs=exits)
def test_the_fit_is_that_of_a_loop(pairs):
    confidences, agrees = map(np.array, zip(*pairs, strict=True))
    found = fit_mixture(confidences, agrees)
    weight, agree, differ = naive_fit(pairs)
    assert found.weight == pytest.approx(weight, rel=1e-5)
    assert found.agree == pytest.approx(agree, rel=1e-5)
    assert found.differ == pytest.approx(differ, rel=1e-5)


@pytest.mark.parametrize("known", [1.0, 0.3])
def test_it_finds_the_mixture_that_tokens_come_from(known):
    generator = np.random.default_rng(0)
    agrees = (generator.random(20_000) < 0.7).astype(float)
    confidences = np.where(agrees, generator.beta(5, 1.5, 20_000), generator.beta(1.5, 3, 20_000))
    agrees[generator.random(20_000) > known] = np.nan
    found = fit_mixture(confidences, agrees)
    assert found.weight == pytest.approx(0.7, abs=0.03)
    assert found.agree == pytest.approx((5, 1.5), rel=0.1)
    assert found.differ == pytest.approx((1.5, 3), rel=0.1)


@given(weight=st.floats(0.01, 0.99), agree=shapes, differ=shapes)
def test_the_threshold_is_the_first_point_from_which_on_all_are_likely(weight, agree, differ):
    mixture = BetaMixture(weight, agree, differ)
    likely = [share > LEVEL for share in mixture.posterior(GRID)]
    expected = next((place for place in range(10) if all(likely[place:])), 9)
    assert mixture.threshold() == GRID[expected]


def test_the_state_is_a_value_and_freezes():
    first = AdaptiveThreshold(0.8, freeze_after=10)
    assert (first.threshold, first.next_prompts, first.frozen) == (0.8, 8, False)
    confidences, agrees = np.array([0.2, 0.9, 0.95, 0.4]), np.array([0.0, 1.0, 1.0, 0.0])
    second = first.updated(8, confidences, agrees)
    assert (first.prompts, first.threshold) == (0, 0.8)
    assert (second.prompts, second.next_prompts) == (8, 2)
    assert second.threshold == fit_mixture(confidences, agrees).threshold()
    third = second.updated(2, confidences[:1], agrees[:1])
    assert (third.frozen, third.next_prompts) == (True, 0)
    assert third.to_dict()["tokens"] == 5
    assert third.to_dict()["agreement"] == 0.4
