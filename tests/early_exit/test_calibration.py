"""Sequential tests against mapie, and calibration on tables whose answer is known."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mapie.risk_control.fwer_control import FWERFixedSequenceTesting, control_fwer

from early_exit.calibration import (
    Candidates,
    bonferroni,
    calibrate,
    calibrate_chains,
    calibrate_pareto,
    chains,
    check_groups,
    fallback,
    fixed_sequence,
    holm,
    multi_start,
    p_value,
    pareto_front,
    pareto_test,
    prompts_for_power,
    prompts_needed,
    threshold_tests,
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
    assert prompts_needed([0.0, 0.0], 0.05, 0.05) == 59
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
        ([1.0, 0.5], {"test": "sidak"}, "unknown test 'sidak'; known: fixed_sequence"),
    ],
)
def test_bad_input(thresholds, options, message):
    with pytest.raises(ValueError, match=message):
        calibrate(table([0.0, 0.1]), thresholds, **{"delta": 0.1, "epsilon": 0.05} | options)


@given(p_values, st.floats(0.01, 0.5))
def test_holm_and_fallback_accept_what_their_plain_forms_do_and_more(values, epsilon):
    ordered = sorted(values)  # Holm's definition, step by step
    steps = [value <= epsilon / (len(values) - place) for place, value in enumerate(ordered)]
    passed = steps.index(False) if False in steps else len(steps)
    assert sorted(values[index] for index in holm(values, epsilon)) == ordered[:passed]
    assert set(bonferroni(values, epsilon)) <= set(holm(values, epsilon))
    assert set(multi_start(values, epsilon)) <= set(fallback(values, epsilon))


def graphical(p_values, levels, edges):
    """Bretz et al. 2009, algorithm 1, to the letter."""
    levels, edges, left = list(levels), [list(row) for row in edges], set(range(len(p_values)))
    while passed := [index for index in left if 0 < levels[index] >= p_values[index] - 1e-12]:
        j = passed[0]
        left.remove(j)
        old = [list(row) for row in edges]
        for k in left:
            levels[k] += levels[j] * old[j][k]
            for m in left - {k}:
                loop = old[k][j] * old[j][k]
                edges[k][m] = (old[k][m] + old[k][j] * old[j][m]) / (1 - loop) if loop < 1 - 1e-12 else 0.0
        levels[j] = 0.0
    return sorted(set(range(len(p_values))) - left)


@given(st.lists(st.integers(1, 3), min_size=2, max_size=4), st.data())
def test_chains_are_a_graphical_procedure(lengths, data):
    size, ends = sum(lengths), np.cumsum(lengths)
    values = data.draw(st.lists(st.floats(0, 0.12), min_size=size, max_size=size))
    heads = [end - length for end, length in zip(ends, lengths, strict=True)]
    levels = [0.05 / len(lengths) if index in heads else 0.0 for index in range(size)]
    edges = np.zeros((size, size))
    for head, end in zip(heads, ends, strict=True):
        for index in range(head, end - 1):
            edges[index, index + 1] = 1.0
        for other in heads:
            if other != head:
                edges[end - 1, other] = 1 / (len(lengths) - 1)
    assert chains(values, lengths, 0.05) == graphical(values, levels, edges.tolist())


@given(p_values, st.floats(0.01, 0.5))
def test_fallback_is_a_graphical_procedure(values, epsilon):
    size, starts = len(values), min(4, len(values))
    levels = [0.0] * size
    for number in range(starts):
        levels[number * size // starts] += epsilon / starts
    edges = np.zeros((size, size))
    for index in range(size):
        if size > 1:
            edges[index, (index + 1) % size] = 1.0
    assert fallback(values, epsilon) == graphical(values, levels, edges.tolist())


@pytest.mark.parametrize("test", threshold_tests())
def test_the_smallest_delta_is_where_the_whole_test_passes(test):
    losses = table([0.0, 0.06, 0.05, 0.3, 0.02])
    thresholds = [1.0, 0.8, 0.6, 0.4, 0.2]
    smallest = calibrate(losses, thresholds, 0.01, 0.05, test=test).smallest_delta
    assert calibrate(losses, thresholds, smallest + 1e-5, 0.05, test=test).certified
    assert not calibrate(losses, thresholds, smallest - 1e-5, 0.05, test=test).certified


def test_full_depth_alone_is_no_certificate():
    result = calibrate(table([0.0, 0.5]), [1.0, 0.5], delta=0.1, epsilon=0.05)
    assert (result.certified, result.only_full_depth, result.threshold) == (False, True, None)
    assert result.mean_loss > 0.4  # of the first setting that exits
    assert result.smallest_delta > 0.4
    none = calibrate(table([0.0]), [1.0], delta=0.1, epsilon=0.05)
    assert (none.certified, none.only_full_depth, none.smallest_delta) == (False, True, None)
    decaying = calibrate(table([0.0]), [1.0], 0.1, 0.05, full_depth=[False])  # positional decay
    assert decaying.certified


def test_pareto_testing_begins_with_all_settings_that_lose_nothing():
    """Ties: on the first half many settings lose nothing, and the cheapest of them is above δ."""
    random, passed = np.random.default_rng(0), 0
    for _ in range(60):
        losses = (random.random((100, 1)) < np.array([0.0, 0.002, 0.004, 0.13])).astype(float)
        chosen, _, _ = pareto_test(losses, np.tile([4.0, 3.0, 2.0, 1.0], (100, 1)), 0.1, 0.05)
        passed += chosen is not None
    assert passed == 60


def test_every_chain_may_win_and_the_cheapest_setting_does():
    losses = table([0.0, 0.01, 0.5, 0.0, 0.02, 0.04])
    thresholds, deep = [1.0, 0.5, 0.1] * 2, [True, False, False] * 2
    costs = [6.0, 5.0, 1.0, 6.0, 4.0, 2.0]
    result = calibrate_chains(losses, [3, 3], Candidates(thresholds, deep, costs), 0.1, 0.05)
    assert (result.certified, result.index, result.threshold, result.n) == (True, 5, 0.1, 400)
    assert result.accepted == [0, 1, 3, 4, 5]
    cheaper = Candidates(thresholds, deep, [1.0, 0.5, *costs[2:]])
    assert calibrate_chains(losses, [3, 3], cheaper, 0.1, 0.05).index == 1


def test_prompts_needed_give_nine_draws_in_ten():
    losses = np.array([0.0] * 9 + [0.25])  # a mean of 0.025
    found = prompts_for_power(losses, 0.05, 0.05)
    random = np.random.default_rng(5)
    rates = [
        np.mean([p_value(random.choice(losses, n), 0.05) <= 0.05 for _ in range(600)])
        for n in (found.n, round(0.8 * found.n))
    ]
    assert 0.87 < rates[0] < 0.94
    assert rates[1] < 0.87
    assert found.low <= found.n <= (found.high or math.inf)
    assert prompts_for_power(losses, 0.05, 0.05, tested_share=0.5).n == 2 * found.n
    assert prompts_for_power([0.0, 0.2] * 20, 0.05, 0.05).n is None


@pytest.mark.filterwarnings("ignore:the losses hardly stand in random order")
def test_pareto_testing_tests_every_group():
    """A small group that comes first in the order of the prompts is split like any other."""
    groups = np.array([1] * 30 + [0] * 370)
    losses = np.zeros((400, 2))
    losses[groups == 1, 1] = 1.0  # the cheaper setting breaks the promise for the small group
    costs = np.tile([4.0, 2.0], (400, 1))
    settings = Candidates([0.9, 0.5], [False, False], costs)
    without = calibrate_pareto(losses, settings, 0.2, 0.05)
    found = calibrate_pareto(losses, settings, 0.2, 0.05, groups=groups)
    assert (without.index, found.index, found.n) == (1, 0, 200)
    # 15 prompts are too few for 0.1.
    assert calibrate_pareto(losses, settings, 0.1, 0.05, groups=groups).index is None
    with pytest.raises(ValueError, match="3 prompts of group '7'; at least 4 are needed"):
        calibrate_pareto(
            losses[:20],
            Candidates([0.9, 0.5], [False, False], costs[:20]),
            0.2,
            0.05,
            groups=[7] * 3 + [0] * 17,
        )


def test_a_group_of_one_prompt_is_named():
    with pytest.raises(ValueError, match="1 prompts of group 'x'; at least 2 are needed"):
        calibrate(np.zeros((5, 1)), [0.5], 0.2, 0.05, groups=["x", *"yyyy"])
    check_groups(None)


def test_what_is_shown_is_what_is_picked_or_the_first_that_exits():
    losses = table([0.0, 0.01, 0.3])
    assert calibrate(losses, [1.0, 0.8, 0.6], 0.1, 0.05).shown == 1
    assert calibrate(losses[:, [0, 2]], [1.0, 0.6], 0.1, 0.05).shown == 1
    costs = np.tile([1.0, 9.0, 3.0], (400, 1))
    found = calibrate_pareto(
        table([0.9, 0.2, 0.5]), Candidates([0.9, 0.5, 0.3], [False] * 3, costs), 0.1, 0.05
    )
    assert (found.index, found.shown) == (None, 1)
    assert found.mean_loss == pytest.approx(table([0.9, 0.2, 0.5])[200:, 1].mean())
