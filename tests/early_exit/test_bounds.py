"""p-values against exact arithmetic, enumeration, and mapie."""

import itertools
import math
import warnings
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mapie.risk_control.methods import compute_hoeffding_bentkus_p_value

from early_exit.bounds import BOUNDS, confidence_interval, p_value, upper_bound, wsr_rows

losses = st.lists(st.one_of(st.floats(0, 1), st.sampled_from([0.0, 0.1, 0.5, 1.0])), min_size=2, max_size=40)
levels = st.floats(0.01, 0.99)


def binomial_cdf(successes: int, n: int, share: Fraction) -> Fraction:
    return sum(math.comb(n, k) * share**k * (1 - share) ** (n - k) for k in range(successes + 1))


@given(st.lists(st.sampled_from([0.0, 1.0]), min_size=2, max_size=40), levels)
def test_binomial_is_exact(losses, delta):
    expected = binomial_cdf(int(sum(losses)), len(losses), Fraction(delta))
    assert p_value(losses, delta, "binomial") == pytest.approx(float(expected), rel=1e-9)


@given(losses, levels)
def test_hoeffding_bentkus_equals_its_definition(losses, delta):
    n, exact = len(losses), Fraction(delta)
    total = sum(map(Fraction, losses))
    mean = min(total / n, exact)
    divergence = float(mean) * math.log(mean / exact) if mean > 0 else 0.0
    if mean < 1:
        divergence += float(1 - mean) * math.log((1 - mean) / (1 - exact))
    # A sum that is whole but for rounding is meant to be whole.
    bentkus = math.e * binomial_cdf(math.ceil(total - Fraction(1, 10**9)), n, exact)
    expected = min(1.0, math.exp(-n * divergence), float(bentkus))
    assert p_value(losses, delta, "hoeffding_bentkus") == pytest.approx(expected, rel=1e-6, abs=1e-12)


@given(losses, levels)
def test_hoeffding_bentkus_is_mapies(losses, delta):
    ours = p_value(losses, delta, "hoeffding_bentkus")
    total = math.fsum(losses)
    mean = total / len(losses)
    if abs(total - round(total)) < 1e-6:
        return  # mapie rounds a whole sum that is off by a bit up
    theirs = compute_hoeffding_bentkus_p_value(np.array([mean]), len(losses), [delta])
    assert ours == pytest.approx(min(1.0, theirs.item()), rel=1e-6, abs=1e-9)


@given(losses, levels)
def test_hoeffding_equals_its_definition(losses, delta):
    gap = max(Fraction(0), Fraction(delta) - sum(map(Fraction, losses)) / len(losses))
    expected = math.exp(float(-2 * len(losses) * gap**2))
    assert p_value(losses, delta, "hoeffding") == pytest.approx(expected, rel=1e-9)


@given(losses, levels, levels)
def test_wsr_is_the_best_wealth_of_a_bettor(losses, delta, epsilon):
    """A loop over prompts, the wealth in exact arithmetic."""
    n, wealth, best = len(losses), Fraction(1), Fraction(0)
    variance = delta * (1 - delta)
    seen, squares = 20 * delta, 20 * variance
    for count, loss in enumerate(losses, start=1):
        bet = min(0.99 / (1 - delta), math.sqrt(2 * math.log(1 / epsilon) / (n * variance)))
        wealth *= 1 - Fraction(bet) * (Fraction(loss) - Fraction(delta))
        best = max(best, wealth)
        seen += loss
        squares += (loss - seen / (count + 20)) ** 2
        variance = squares / (count + 20)
    expected = min(1.0, float(1 / best))
    assert p_value(losses, delta, "wsr", epsilon) == pytest.approx(expected, rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("bound", "values"),
    [(bound, (0.0, 1.0)) for bound in BOUNDS]
    + [(bound, (0.0, 0.3, 1.0)) for bound in BOUNDS if bound != "binomial"],
)
@pytest.mark.parametrize("delta", [0.1, 0.3, 0.5])
def test_a_false_alarm_has_at_most_the_chance_that_was_allowed(bound, values, delta):
    """Over all calibration sets of 7 prompts from a distribution whose mean is δ, by enumeration."""
    share = delta / sum(values)
    shares = [1 - share * (len(values) - 1)] + [share] * (len(values) - 1)
    assert sum(share * value for share, value in zip(shares, values, strict=True)) == pytest.approx(delta)
    for epsilon in (0.05, 0.2, 0.5):
        chance = 0.0
        for draw in itertools.product(range(len(values)), repeat=7):
            if p_value([values[i] for i in draw], delta, bound, epsilon) <= epsilon:
                chance += math.prod(shares[i] for i in draw)
        assert chance <= epsilon + 1e-9


@given(losses, levels, st.sampled_from(["wsr", "hoeffding_bentkus", "hoeffding"]))
def test_the_upper_bound_is_where_the_p_value_crosses(losses, epsilon, bound):
    bound_ = upper_bound(losses, epsilon, bound)
    assert math.fsum(losses) / len(losses) - 1e-9 <= bound_ <= 1
    if bound_ < 1 - 1e-6:
        assert p_value(losses, bound_, bound, epsilon) <= epsilon
    if bound_ > 2e-6 + math.fsum(losses) / len(losses):
        assert p_value(losses, bound_ - 2e-6, bound, epsilon) > epsilon


def test_sample_sizes_are_the_known_ones():
    """To certify 0.05 at zero loss and ε = 0.05: 600, 59 and 59 prompts, the fewest that any bound can."""
    for bound, n in (("hoeffding", 600), ("hoeffding_bentkus", 59), ("wsr", 59)):
        assert p_value([0.0] * n, 0.05, bound) <= 0.05
        assert p_value([0.0] * (n - 1), 0.05, bound) > 0.05


BOUNDARY = {
    "zero or one": lambda random, shape, delta: random.random(shape) < delta,
    "beta, spread": lambda random, shape, delta: random.beta(delta / 2, (1 - delta) / 2, shape),
    "beta, narrow": lambda random, shape, delta: random.beta(40 * delta, 40 * (1 - delta), shape),
    "rare and large": lambda random, shape, delta: (random.random(shape) < delta / 0.9) * 0.9,
    "rising within a draw of two": lambda random, shape, delta: 2 * delta * (random.random(shape) < 0.5),
}


@pytest.mark.parametrize("name", BOUNDARY)
def test_betting_holds_its_level_where_the_mean_is_delta(name):
    random = np.random.default_rng(0)
    for delta, n in itertools.product((0.02, 0.1, 0.4), (10, 60, 250)):
        losses = np.asarray(BOUNDARY[name](random, (3000, n), delta), dtype=float)
        rate = (wsr_rows(losses, delta, 0.05) <= 0.05).mean()
        assert rate <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 3000)


@given(losses, levels, levels, levels)
def test_a_larger_delta_has_a_smaller_p_value(losses, one, other, epsilon):
    small, large = sorted((one, other))
    for bound in ("wsr", "hoeffding_bentkus", "hoeffding"):
        assert p_value(losses, large, bound, epsilon) <= p_value(losses, small, bound, epsilon) + 1e-9


def test_an_interval_of_rare_losses_covers_the_mean():
    """The normal approximation covers 0.02 in 63% of such draws."""
    random, covered = np.random.default_rng(0), 0
    for _ in range(200):
        low, high = confidence_interval((random.random(50) < 0.02).astype(float))
        covered += low <= 0.02 <= high
    assert covered >= 190 - 2 * math.sqrt(200 * 0.05 * 0.95)


@pytest.mark.parametrize(
    "losses",
    [[0.0] * 63 + [1.0] * 37, sorted(np.random.default_rng(0).random(200) * 0.06), [0.0] * 80 + [0.4] * 10],
)
def test_an_order_that_is_not_random_is_warned_of(losses):
    with pytest.warns(UserWarning, match="hardly stand in random order"):
        assert p_value(losses, 0.05) <= 0.05
    shuffled = np.random.default_rng(1).permutation(losses)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        p_value(shuffled, 0.05)
        p_value(losses, 0.05, "hoeffding")  # which does not read the order


@pytest.mark.parametrize(
    ("losses", "delta", "options", "message"),
    [
        ([0.1], 0.1, {}, "at least two"),
        ([0.1, 1.2], 0.1, {}, "loss 1.2 is outside"),
        ([0.1, math.nan], 0.1, {}, "loss nan is outside"),
        ([0.1, 0.2], 0.0, {}, "delta 0.0 is outside"),
        ([0.1, 0.2], 0.1, {"epsilon": 1.0}, "epsilon 1.0 is outside"),
        ([0.1, 0.2], 0.1, {"bound": "markov"}, "unknown bound 'markov'; known: wsr"),
        ([0.1, 0.2], 0.1, {"bound": "binomial"}, "0 or 1"),
    ],
)
def test_bad_input(losses, delta, options, message):
    with pytest.raises(ValueError, match=message):
        p_value(losses, delta, **options)
