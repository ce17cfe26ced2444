"""Sequential tests against mapie, and calibration on tables whose answer is known."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mapie.risk_control.fwer_control import FWERFixedSequenceTesting, control_fwer

from early_exit.calibration import (
    bonferroni,
    calibrate,
    fixed_sequence,
    multi_start,
    pareto_front,
    pareto_test,
    prompts_needed,
)

p_values = st.lists(st.one_of(st.floats(0, 0.2), st.floats(0, 1)), min_size=1, max_size=12)


@given(p_values, st.floats(0.01, 0.5))
def test_fixed_sequence_accepts_up_to_the_first_failure(values, epsilon):
    accepted = fixed_sequence(values, epsilon)
    assert accepted == list(range(len(accepted)))
    assert all(values[index] <= epsilon for index in accepted)
    assert len(accepted) == len(values) or values[len(accepted)] > epsilon


@given(p_values, st.floats(0.01, 0.5))
def test_fixed_sequence_and_bonferroni_are_mapies(values, epsilon):
    theirs = control_fwer(np.array(values), epsilon, FWERFixedSequenceTesting(n_starts=1))
    assert fixed_sequence(values, epsilon) == sorted(theirs.tolist())
    assert bonferroni(values, epsilon) == sorted(
        control_fwer(np.array(values), epsilon, "bonferroni").tolist()
    )


@given(p_values, st.floats(0.01, 0.5), st.integers(1, 4))
def test_multi_start_joins_sequences_at_a_share_of_the_level(values, epsilon, starts):
    used = min(starts, len(values))
    expected = set()
    for number in range(used):
        place = number * len(values) // used
        while place < len(values) and values[place] <= epsilon / used:
            expected.add(place)
            place += 1
    assert multi_start(values, epsilon, starts) == sorted(expected)


def table(means, n=400, seed=0):
    """Losses of 0 and 1 with these means."""
    drawn = np.random.default_rng(seed).random((n, 1))
    return (drawn < np.array(means)).astype(float)


def test_the_lowest_threshold_that_passes_is_certified():
    losses = table([0.0, 0.01, 0.05, 0.3, 0.02])
    result = calibrate(losses, [1.0, 0.8, 0.6, 0.4, 0.2], delta=0.1, epsilon=0.05)
    assert result.certified
    assert result.threshold == 0.6  # 0.2 would pass, behind one that does not
    assert result.accepted == [0, 1, 2]
    assert result.mean_loss == pytest.approx(losses[:, 2].mean())
    assert result.mean_loss < result.upper_bound <= 0.1
    assert calibrate(losses, [1.0, 0.8, 0.6, 0.4, 0.2], 0.1, 0.05, test="bonferroni").threshold == 0.2


def test_what_was_not_evaluated_cannot_pass():
    losses = table([0.0, 0.0, 0.0])
    losses[:, 2] = math.nan
    result = calibrate(losses, [1.0, 0.5, 0.0], delta=0.1, epsilon=0.05)
    assert result.threshold == 0.5
    assert math.isnan(result.p_values[2])


def test_nothing_passes_and_the_first_setting_says_how_far_off_it_is():
    losses = table([0.2, 0.5])
    result = calibrate(losses, [1.0, 0.5], delta=0.1, epsilon=0.05)
    assert (result.certified, result.threshold, result.index) == (False, None, None)
    assert calibrate(losses, [1.0, 0.5], result.upper_bound + 1e-6, 0.05).certified
    assert not calibrate(losses, [1.0, 0.5], result.upper_bound - 1e-5, 0.05).certified


def test_prompts_needed():
    assert prompts_needed([0.0, 0.0], 0.05, 0.05, "hoeffding") == 600
    assert prompts_needed([0.0, 0.0], 0.05, 0.05) == 63
    assert prompts_needed([0.0, 0.2], 0.05, 0.05) is None  # a mean of 0.1
    few, many = (prompts_needed([0.0, share], 0.1, 0.05) for share in (0.05, 0.18))
    assert few < many


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=8))
def test_the_front_is_what_nothing_beats(settings):
    costs, losses = zip(*settings, strict=True)
    front = pareto_front(costs, losses)
    assert [costs[index] for index in front] == sorted((costs[index] for index in front), reverse=True)
    assert [losses[index] for index in front] == sorted(losses[index] for index in front)
    for index, (cost, loss) in enumerate(settings):
        beaten = any(
            other != index and c <= cost and x <= loss and (c, x) != (cost, loss)
            for other, (c, x) in enumerate(settings)
        )
        if index in front:
            assert not beaten
        elif not beaten:  # equal to one in the front
            assert (cost, loss) in {settings[other] for other in front}


def test_pareto_testing_finds_the_cheapest_setting_that_passes():
    losses = table([0.0, 0.02, 0.03, 0.5, 0.04], n=600)
    costs = np.tile([10.0, 6.0, 8.0, 1.0, 5.0], (600, 1))
    chosen, order, p_values = pareto_test(losses, costs, delta=0.1, epsilon=0.05)
    assert order == [0, 1, 4, 3]  # 2 costs more than 1 and loses more
    assert chosen == 4
    assert p_values[-1] > 0.05


@pytest.mark.parametrize(
    ("thresholds", "options", "message"),
    [
        ([1.0, 0.5], {"delta": 0.0}, "delta 0.0 is outside"),
        ([1.0, 0.5], {"epsilon": 1.5}, "epsilon 1.5 is outside"),
        ([1.0, 1.5], {}, "threshold 1.5 is outside"),
        ([0.5, 0.5], {}, "threshold 0.5 is given more than once"),
        ([1.0], {}, r"shape \(400, 2\) for 1 thresholds"),
        ([], {}, "no thresholds"),
        ([1.0, 0.5], {"test": "holm"}, "unknown test 'holm'; known: fixed_sequence"),
    ],
)
def test_bad_input(thresholds, options, message):
    with pytest.raises(ValueError, match=message):
        calibrate(table([0.0, 0.1]), thresholds, **{"delta": 0.1, "epsilon": 0.05} | options)
