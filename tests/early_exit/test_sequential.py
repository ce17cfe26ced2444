"""Sequential calibration and the monitor: against exact arithmetic, and at the boundary by simulation."""

import json
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from early_exit.calibration import Monitor, SequentialTest
from early_exit.calibration.monitor import alarms
from early_exit.calibration.sequential import EProcess, prompts_until_accepted

losses = st.lists(st.floats(0, 1), min_size=1, max_size=40)


@given(losses, st.floats(0.02, 0.9))
def test_wealth_is_the_mean_of_constant_bettors(losses, delta):
    process = EProcess(delta)
    for loss in losses:
        wealth = process.update(loss)
    expected = []
    for share in np.linspace(0.15, 0.99, 6):
        bet = Fraction(float(share)) / (1 - Fraction(delta))
        product = Fraction(1)
        for loss in losses:
            product *= 1 - bet * (Fraction(loss) - Fraction(delta))
        expected.append(product)
    assert wealth == pytest.approx(float(sum(expected) / 6), rel=1e-6)


@pytest.mark.slow
def test_false_acceptance_however_often_one_looks():
    random, draws = np.random.default_rng(0), 1500
    accepted = 0
    for _ in range(draws):
        accepted += prompts_until_accepted((random.random(300) < 0.1).astype(float), 0.1, 0.1) is not None
    assert accepted / draws <= 0.1 + 3 * math.sqrt(0.09 / draws)


@given(st.lists(st.floats(0, 0.3), min_size=1, max_size=300), st.integers(0, 300))
def test_a_sequential_test_goes_on_where_it_was(values, cut):
    whole, half = SequentialTest(2, 0.2, 0.05), SequentialTest(2, 0.2, 0.05)
    for number, value in enumerate(values):
        if number == cut:
            half = SequentialTest.from_dict(json.loads(json.dumps(half.to_dict())))
        for test in (whole, half):
            if test.current is not None:
                test.update(value)
    assert whole.to_dict() == half.to_dict()
    assert (whole.accepted_after, whole.p_value) == (half.accepted_after, half.p_value)


def test_zero_losses_are_accepted_about_as_soon_as_by_a_fixed_number():
    assert 59 <= prompts_until_accepted(np.zeros(200), 0.05, 0.05) <= 85
    assert prompts_until_accepted(np.ones(200), 0.05, 0.05) is None


def shift(random, before, after, place, shape):
    drawn = random.beta(2 * before, 2 * (1 - before), shape)
    drawn[:, place:] = random.beta(2 * after, 2 * (1 - after), (shape[0], shape[1] - place))
    return drawn


def test_a_monitor_gives_false_alarm_seldom_and_true_alarm_soon():
    random = np.random.default_rng(0)
    false = (alarms(shift(random, 0.1, 0.1, 0, (500, 1000)), 0.1, 0.05) > 0).mean()
    assert false <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 500)
    found = alarms(shift(random, 0.08, 0.3, 300, (100, 600)), 0.1, 0.05)
    assert (found > 300).mean() > 0.9
    assert np.median(found[found > 300]) < 400


@given(losses, st.floats(0.05, 0.5))
def test_a_monitor_is_its_vectorised_form_and_goes_through_json(losses, delta):
    monitor = Monitor(delta, 0.2)
    for number, loss in enumerate(losses):
        monitor.observe(loss, f"2026-01-{number % 28 + 1:02}")
        monitor = Monitor.from_dict(json.loads(json.dumps(monitor.to_dict())))
    assert (monitor.alarmed_at or 0) == alarms(np.array([losses]), delta, 0.2)[0]
    assert sum(day["audits"] for day in monitor.days) == len(losses)
    assert str(monitor)


def test_a_monitor_starts_anew_after_long_good_times():
    """Wealth lost on a thousand good audits does not hide what comes then."""
    monitor = Monitor(0.1)
    for _ in range(1000):
        monitor.observe(0.0)
    seen = 0
    while not monitor.observe(0.5):
        seen += 1
    assert seen < 60
    assert "ALARM since audit 10" in str(monitor)
