"""Times a token from a clock that stands still but for what the test says, against counting by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainers.timing import Slices, Stopwatch, speed


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def timed(*events) -> Slices:
    """events: ("chose" or "encoded" or "aside", seconds, tokens)."""
    clock = Clock()
    watch = Stopwatch(clock)
    for name, seconds, tokens in events:
        clock.now += seconds
        if name == "aside":
            watch.start()
        else:
            getattr(watch, name)(tokens)
    return watch.slices()


def test_a_token_takes_its_step_and_its_share_of_the_encoding():
    events = [("encoded", 2.0, 40), *[("chose", 0.5, 4)] * 10, ("aside", 99.0, 0), ("encoded", 1.0, 20)]
    metrics = speed([timed(*events, *[("chose", 0.5, 4)] * 10)])
    # 0.125 s a token in a step; 0.05 s a source token, of which there are 60 for 80 new ones.
    expected = 1000 * (0.125 + 0.05 * 60 / 80)
    for name in ("ms_per_token", "ms_per_token_p10", "ms_per_token_p90"):
        assert metrics[name] == pytest.approx(expected)
    assert metrics["tokens_per_second"] == pytest.approx(1000 / expected)


def test_a_disturbance_shows_in_the_spread_and_not_in_the_median():
    steady, slow = ("chose", 0.01, 8), ("chose", 0.2, 8)
    alone = speed([timed(*[steady] * 500)])
    beside = speed([timed(*[steady] * 350, *[slow] * 100, *[steady] * 50)])
    assert alone["ms_per_token_p90"] == pytest.approx(alone["ms_per_token_p10"])
    assert beside["ms_per_token"] == pytest.approx(alone["ms_per_token"])
    assert beside["tokens_per_second"] == pytest.approx(alone["tokens_per_second"])
    assert beside["ms_per_token_p90"] == pytest.approx(20 * beside["ms_per_token_p10"])


def test_a_last_small_batch_moves_nothing():
    batches = [("chose", 1.0, 100)] * 9
    metrics = speed([timed(*batches, ("chose", 0.5, 3))])
    assert metrics["ms_per_token"] == metrics["ms_per_token_p90"] == pytest.approx(10)


def test_a_disturbed_encoding_moves_nothing():
    steady = [("encoded", 1.0, 10), *[("chose", 0.1, 1)] * 10] * 5
    disturbed = [*steady[:11], ("encoded", 50.0, 10), *steady[12:]]
    assert speed([timed(*disturbed)]) == pytest.approx(speed([timed(*steady)]))


@given(
    st.lists(st.tuples(st.just("chose"), st.floats(0.001, 9), st.integers(1, 64)), min_size=1, max_size=300)
)
def test_slices_hold_all_time_and_all_tokens_in_about_equal_shares(events):
    slices = timed(*events)
    total, largest = sum(event[2] for event in events), max(event[2] for event in events)
    assert slices.tokens.sum() == total
    assert slices.seconds.sum() == pytest.approx(sum(event[1] for event in events))
    assert len(slices.tokens) <= 50
    assert slices.tokens.max() <= total / 50 + largest
    metrics = speed([slices])
    assert metrics["ms_per_token_p10"] <= metrics["ms_per_token"] <= metrics["ms_per_token_p90"]


def test_processes_add_up_and_idle_ones_do_not_count():
    one, nothing = timed(*[("chose", 0.1, 2)] * 60), timed(("encoded", 1.0, 5))
    together = speed([one, one, nothing])
    assert together["ms_per_token"] == pytest.approx(50)
    assert together["tokens_per_second"] == pytest.approx(40)
    assert speed([nothing]) == {}
    assert speed([Slices(np.zeros(0), np.zeros(0)), one]) == speed([one])


def test_what_follows_a_step_without_tokens_is_part_of_it():
    """As learning from the last texts does."""
    slices = timed(("chose", 1.0, 10), ("chose", 5.0, 0), ("chose", 2.0, 10), ("chose", 3.0, 0))
    assert slices.seconds.sum() == 11.0
    assert slices.tokens.sum() == 20
