import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from early_exit.policy import ExitPolicy

unit = st.floats(0, 1, width=32)


@given(unit, st.integers(0, 200), st.integers(1, 200), st.floats(0, 100))
def test_threshold_decays_as_the_formula_says(threshold, position, longest, temperature):
    policy = ExitPolicy(measure="softmax", threshold=threshold, position_temperature=temperature)
    expected = threshold * (0.9 + 0.1 * math.exp(-temperature * position / longest))
    assert policy.threshold_at(position, longest) == pytest.approx(min(max(expected, 0), 1))


def test_threshold_is_constant_without_temperature():
    policy = ExitPolicy(measure="softmax", threshold=0.7)
    assert {policy.threshold_at(position, 10) for position in range(10)} == {0.7}


@given(st.lists(unit, min_size=1, max_size=5), st.data())
def test_rows_leave_where_confidence_is_strictly_greater(thresholds, data):
    confidences = [data.draw(st.one_of(unit, st.just(threshold))) for threshold in thresholds]
    policy = ExitPolicy(measure="softmax", threshold=torch.tensor(thresholds))
    leaves = policy.exits(torch.tensor(confidences), position=0, max_new_tokens=1).tolist()
    assert leaves == [c > t for c, t in zip(confidences, thresholds, strict=True)]
    alone = [
        policy.for_row(row).exits(torch.tensor([confidence]), 0, 1).item()
        for row, confidence in enumerate(confidences)
    ]
    assert alone == leaves


@pytest.mark.parametrize(
    ("min_layer", "tried"), [(0, [1, 2, 3]), (1, [1, 2, 3]), (2, [2, 3]), (4, []), (100, [])]
)
def test_minimum_layer(min_layer, tried):
    policy = ExitPolicy(measure="softmax", min_layer=min_layer)
    assert [layer for layer in range(1, 5) if policy.tries_exit(layer, num_layers=4)] == tried


def test_static_and_full_depth_try_no_exit():
    assert not any(ExitPolicy(static_layer=2).tries_exit(layer, 4) for layer in range(1, 5))
    assert not any(ExitPolicy().tries_exit(layer, 4) for layer in range(1, 5))
    assert ExitPolicy(static_layer=2).last_layer(4) == 2
    assert ExitPolicy().last_layer(4) == 4


@pytest.mark.parametrize("layer", [3, torch.tensor(3)])
def test_a_static_layer_ends_the_exits_of_a_measure(layer):
    policy = ExitPolicy(measure="softmax", threshold=0.5, static_layer=layer)
    assert [layer for layer in range(1, 7) if policy.tries_exit(layer, 6)] == [1, 2]
    assert policy.last_layer(6) == 3
    beyond = ExitPolicy(measure="softmax", threshold=0.5, static_layer=7)
    with pytest.raises(ValueError, match="static exit layer 7 is outside 1 to 6"):
        beyond.last_layer(6)


def test_planned_layers_follow_a_schedule_and_keep_its_last_column():
    def planned(policy, steps, rows):
        return policy.planned_layers(np.array(steps), np.array(rows), last_layer=4).tolist()

    assert planned(ExitPolicy(), [0, 7], [0, 1]) == [4, 4]
    assert planned(ExitPolicy(static_layer=2), [0, 7], [0, 1]) == [2, 2]
    assert planned(ExitPolicy(static_layer=torch.tensor(2)), [0, 7], [0, 1]) == [2, 2]
    by_step = ExitPolicy(static_layer=torch.tensor([3, 1]))
    assert planned(by_step, [0, 1, 2, 0], [0, 1, 0, 1]) == [3, 1, 1, 3]
    by_row = ExitPolicy(static_layer=torch.tensor([[3, 1], [2, 4]]))
    assert planned(by_row, [0, 0, 1, 1, 2, 2], [0, 1, 0, 1, 0, 1]) == [3, 2, 1, 4, 1, 4]
    assert planned(by_row.for_row(1), [0, 1], [0, 0]) == [2, 4]
    assert by_row.last_layer(4) == 4


def test_thresholds_are_those_of_the_rows():
    assert ExitPolicy(threshold=0.5).thresholds_of(np.array([2, 0])).tolist() == [0.5, 0.5]
    policy = ExitPolicy(threshold=torch.tensor([0.25, 0.5, 1.0]))
    assert policy.thresholds_of(np.array([2, 0])).tolist() == [1.0, 0.25]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"static_layer": torch.tensor([2, 0])}, "static exit layer 0; layers count from 1"),
        ({"static_layer": torch.tensor([2.0])}, "an integer, or integers"),
        ({"static_layer": torch.tensor([], dtype=torch.long)}, "an integer, or integers"),
        ({"measure": "sofmax"}, "unknown confidence measure 'sofmax'; known: softmax"),
        ({"measure": "softmax", "threshold": 1.5}, "threshold 1.5 is outside"),
        ({"measure": "softmax", "threshold": -0.1}, "threshold -0.1 is outside"),
        ({"measure": "softmax", "threshold": float("nan")}, "threshold nan is outside"),
        ({"measure": "softmax", "threshold": torch.tensor([0.5, 2.0])}, "threshold 2 is outside"),
        ({"measure": "softmax", "min_layer": -1}, "-1 is negative"),
        ({"measure": "softmax", "position_temperature": -4.0}, "-4.0"),
        ({"static_layer": 0}, "count from 1"),
        ({"static_layer": torch.tensor([1, 2]), "measure": "softmax"}, "exclude each other"),
        ({"static_layer": 2, "measure": "softmax", "verify": "exact"}, "not by both"),
        (
            {"static_layer": 2, "measure": "oracle"},
            "'oracle' needs full depth, and goes with no static layer",
        ),
    ],
)
def test_values_outside_their_ranges_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        ExitPolicy(**settings)


def test_static_layer_beyond_the_model_is_named():
    with pytest.raises(ValueError, match="static exit layer 7 is outside 1 to 6"):
        ExitPolicy(static_layer=7).last_layer(6)


def test_thresholds_must_fit_the_batch():
    policy = ExitPolicy(measure="softmax", threshold=torch.tensor([0.1, 0.2]))
    policy.check_rows(2)
    with pytest.raises(ValueError, match="batch of 3 rows"):
        policy.check_rows(3)


def test_nan_confidence_is_an_error():
    with pytest.raises(ValueError, match="NaN"):
        ExitPolicy(measure="softmax").exits(torch.tensor([0.3, float("nan")]), 0, 1)
