"""Bytes of weights a token, against the model's own tensors."""

import numpy as np
import pytest

from early_exit import ExitPolicy
from models.decoding_cost import bytes_per_token
from tests.tiny import MODELS

MODEL = MODELS["t5"]
HEAD = MODEL.lm_head.weight.numel()
OF_THE_SOURCE = ("EncDecAttention.k.weight", "EncDecAttention.v.weight")
LAYER = sum(
    weight.numel()
    for name, weight in MODEL.decoder.block[3].named_parameters()
    if not name.endswith(OF_THE_SOURCE)
)


@pytest.mark.parametrize(("precision", "size"), [("float32", 4), ("bfloat16", 2), ("int8", 1)])
def test_full_depth_reads_every_layer_and_the_head_once(precision, size):
    cost = bytes_per_token(MODEL, ExitPolicy(), precision, np.array([4.0]))
    assert cost == size * (4 * LAYER + HEAD)


@pytest.mark.parametrize(("min_layer", "reads"), [(0, [1, 3, 4]), (2, [1, 2, 3]), (9, [1, 1, 1])])
def test_the_head_is_read_for_every_exit_that_is_tried(min_layer, reads):
    layers = np.array([1.0, 3.0, 4.0])
    policy = ExitPolicy(measure="softmax", threshold=0.5, min_layer=min_layer)
    expected = 4 * (layers * LAYER + HEAD * np.array(reads))
    assert bytes_per_token(MODEL, policy, "float32", layers).tolist() == expected.tolist()


def test_propagated_and_screened_heads_are_cheaper():
    layers = np.array([3.0])
    whole, propagated, screened = (
        bytes_per_token(MODEL, ExitPolicy(measure="softmax", threshold=0.5, **more), "float32", layers)
        for more in ({}, {"top_k": 10}, {"screen": True})
    )
    assert propagated == whole - 2 * 4 * (HEAD - 10 * MODEL.config.d_model)
    assert screened == whole - 3 * 3 * HEAD
