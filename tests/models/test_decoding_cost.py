"""Bytes of weights a token, against the model's own tensors."""

import numpy as np
import pytest

from early_exit import MEASURES, DecodingSetting, ExitPolicy
from early_exit.confidence import Measure
from early_exit.models.decoding_cost import bytes_per_token
from tests.tiny import HEADS, MODELS

MODEL = MODELS["t5"]
HEAD = MODEL.lm_head.weight.numel()
OF_THE_SOURCE = ("EncDecAttention.k.weight", "EncDecAttention.v.weight")
LAYER = sum(
    weight.numel()
    for name, weight in MODEL.decoder.block[3].named_parameters()
    if not name.endswith(OF_THE_SOURCE)
)
LAYERS = np.array([1.0, 3.0, 4.0])


def cost(layers=LAYERS, precision="float32", **policy):
    return bytes_per_token(MODEL, DecodingSetting(ExitPolicy(**policy), precision), layers).tolist()


@pytest.mark.parametrize(("precision", "size"), [("float32", 4), ("bfloat16", 2), ("int8", 1)])
def test_full_depth_reads_every_layer_and_the_head_once(precision, size):
    assert cost(np.array([4.0]), precision) == [size * (4 * LAYER + HEAD)]


@pytest.mark.parametrize("measure", [name for name in MEASURES if MEASURES[name].reads_lm_head])
@pytest.mark.parametrize(("min_layer", "reads"), [(0, [1, 3, 4]), (2, [1, 2, 3]), (9, [1, 1, 1])])
def test_the_head_is_read_for_every_exit_that_is_tried(measure, min_layer, reads):
    if MEASURES[measure].needs_full_depth:
        layers, reads = np.full(3, 4.0), [reads[-1]] * 3
    else:
        layers = LAYERS
    expected = 4 * (layers * LAYER + HEAD * np.array(reads))
    assert cost(measure=measure, threshold=0.5, min_layer=min_layer) == expected.tolist()


@pytest.mark.parametrize("measure", [name for name in MEASURES if not MEASURES[name].reads_lm_head])
def test_measures_of_states_read_it_once(measure):
    assert cost(measure=measure, threshold=0.5) == cost()


@pytest.mark.parametrize("measure", HEADS)
def test_an_exit_head_is_read_for_every_exit_that_is_tried(measure):
    weights = sum(weight.numel() for weight in MODEL.exit_heads[measure].heads[0].parameters())
    expected = np.array(cost()) + 4 * weights * np.array([1, 3, 4])
    assert cost(measure=measure, threshold=0.5) == expected.tolist()


def test_propagated_and_screened_heads_are_cheaper():
    three = np.array([3.0])
    whole, propagated, screened = (
        cost(three, measure="softmax", threshold=0.5, **more)[0]
        for more in ({}, {"top_k": 10}, {"screen": True})
    )
    assert propagated == whole - 2 * 4 * (HEAD - 10 * MODEL.config.d_model)
    assert screened == whole - 3 * 3 * HEAD


def test_exits_read_the_rows_of_their_shortlist():
    width = MODEL.config.d_model
    listed = {"measure": "softmax", "threshold": 0.5, "shortlist": 10}
    assert cost(np.array([1.0]), **listed) == [4 * (LAYER + 10 * width)]
    assert cost(np.array([4.0]), **listed) == [4 * (4 * LAYER + 4 * 10 * width + HEAD)]


def test_a_screen_saves_other_measures_nothing():
    """It has bounds of softmax response alone: the others read the whole head in float32."""
    assert cost(measure="entropy", threshold=0.5, screen=True) == cost(measure="entropy", threshold=0.5)
    assert cost(screen=True) == [each - 3 * HEAD for each in cost()]


@pytest.mark.parametrize("reads_lm_head", [True, False])
def test_a_measure_registered_elsewhere_is_counted_by_what_it_says(monkeypatch, reads_lm_head):
    monkeypatch.setitem(MEASURES, "new", Measure(lambda view: view.hidden[:, 0], reads_lm_head))
    expected = cost(measure="softmax" if reads_lm_head else "hidden_state", threshold=0.5)
    assert cost(measure="new", threshold=0.5) == expected
