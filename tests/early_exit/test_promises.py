"""Promises against their definitions."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from early_exit.calibration import Promise, calibrate, calibrate_expectation

losses = st.lists(st.floats(0, 1), min_size=4, max_size=60)


@given(losses, st.floats(0.05, 0.95), st.floats(0.05, 1), st.floats(0, 0.9))
def test_a_small_risk_means_a_small_cvar(values, delta, tail, share):
    """CVaR as the mean of the worst share of prompts, which may end within one."""
    promise = Promise("cvar", above=share * delta, tail=tail)
    worst, left, total = sorted(values, reverse=True), tail * len(values), 0.0
    for loss in worst:
        part = min(1.0, left)
        total, left = total + part * loss, left - part
    cvar = total / (tail * len(values))
    mean = promise.risks(values, delta).mean()
    assert cvar <= promise.above + mean * (1 - promise.above) / tail + 1e-9
    if mean <= promise.limit(delta):
        assert cvar <= delta + 1e-9
    assert promise.promised(promise.limit(delta), delta) == pytest.approx(delta)


@given(losses, st.floats(0, 0.99))
def test_a_share_counts(values, above):
    risks = Promise("share", above).risks(values, 0.1)
    assert risks.sum() == sum(value > above for value in values)


def test_expectation_is_conformal_risk_control():
    random = np.random.default_rng(0)
    table = np.sort(random.random((50, 4)) * [0.1, 0.3, 0.5, 0.9], axis=1)
    result = calibrate_expectation(table, [0.9, 0.6, 0.3, 0.1], delta=0.3)
    rising = np.maximum.accumulate(table, axis=1)
    fits = [index for index in range(4) if (50 / 51) * rising[:, index].mean() + 1 / 51 <= 0.3]
    assert result.index == max(fits)
    assert result.certified


def test_a_group_that_is_harder_decides():
    losses = np.zeros((200, 2))
    losses[::2, 1] = 0.3
    groups = [place % 2 for place in range(200)]
    order = np.random.default_rng(0).permutation(200)
    losses, groups = losses[order], [groups[place] for place in order]
    assert calibrate(losses, [0.9, 0.5], 0.2, 0.05).threshold == 0.5
    assert calibrate(losses, [0.9, 0.5], 0.2, 0.05, groups=groups).threshold == 0.9
    with pytest.raises(ValueError, match="1 prompts of group '7'; at least 2 are needed"):
        calibrate(losses, [0.9, 0.5], 0.2, 0.05, groups=[7, *[0] * 199])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"guarantee": "median"}, "unknown guarantee"),
        ({"guarantee": "share"}, "needs the loss above"),
        ({"guarantee": "share", "above": 1.0}, r"allowed: \[0, 1\)"),
        ({"guarantee": "cvar", "tail": 0.0}, r"allowed: \(0, 1\]"),
        ({"above": 0.2}, "counts no losses"),
    ],
)
def test_bad_input(values, message):
    with pytest.raises(ValueError, match=message):
        Promise(**values)
