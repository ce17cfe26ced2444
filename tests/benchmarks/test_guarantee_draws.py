"""Draws of calibration sets, all at once, against the library's bounds for one set at a time."""

import numpy as np
import pytest

from benchmarks.guarantee_draws import BOUNDARY, Table, broken, p_values
from early_exit.bounds import BOUNDS, p_value
from early_exit.calibration import Promise

RANDOM = np.random.default_rng(0)


@pytest.mark.parametrize("bound", BOUNDS)
@pytest.mark.parametrize("n", [2, 7, 60])
def test_p_values_are_the_librarys(bound, n):
    losses = RANDOM.random((9, n)) ** 3
    if bound == "binomial":
        losses = np.rint(losses)
    found = p_values(losses, 0.2, bound, 0.05)
    expected = [p_value(own, 0.2, bound, epsilon=0.05) for own in losses]
    np.testing.assert_allclose(found, expected, rtol=1e-9)


@pytest.mark.parametrize("name", BOUNDARY)
def test_losses_at_the_boundary_have_the_mean_that_they_say(name):
    losses = BOUNDARY[name](RANDOM, (400, 500), 0.1)
    assert losses.min() >= 0
    assert losses.max() <= 1
    assert losses.mean() == pytest.approx(0.1, abs=5 * losses.std() / 400**0.5 / 500**0.5 + 1e-9)


def test_what_breaks_a_promise_in_the_population():
    losses = np.array([[0.0, 0.4], [0.0, 0.4], [0.0, 0.4], [0.5, 0.4]])
    assert broken(losses, Promise(), 0.2).tolist() == [False, True]
    assert broken(losses, Promise("share", 0.45), 0.2).tolist() == [True, False]
    assert broken(losses, Promise("cvar", tail=0.25), 0.45).tolist() == [True, False]


def test_a_sequence_stops_before_what_is_not_shown():
    table = Table(np.tile([0.0, 0.0, 0.5, 0.0], (30, 1)), np.array([6.0, 4, 2, 1]), 0.05, 20, 0)
    row = table.sequence("bound", "wsr", 80, 0.05, "wsr", Promise())
    assert (row["certified_rate"], row["layers"], row["violation_rate"]) == (1, 4, 0)
