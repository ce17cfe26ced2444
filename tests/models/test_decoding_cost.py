"""Bytes of weights a token, against the weights of the modules that run while the reference decodes."""

from contextlib import ExitStack, contextmanager

import numpy as np
import pytest
import torch

from early_exit import MEASURES, DecodingSetting, ExitPolicy
from early_exit.confidence import Measure
from early_exit.linear import has_native
from early_exit.models.decoding_cost import bytes_per_token
from early_exit.models.generation import reference_generate
from tests.tiny import HEADS, MODELS, source_batch

MODEL = MODELS["t5"]
BLOCKS = list(MODEL.decoder.block)
CROSS = [block.layer[1].EncDecAttention for block in BLOCKS]
# Keys and values of the source are read once a text; position biases are rows of a table, not a product.
NOT_COUNTED = {part for cross in CROSS for part in (cross.k, cross.v)} | {
    part for part in MODEL.modules() if isinstance(part, torch.nn.Embedding)
}


def size(module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def leaves(modules) -> list:
    return [part for module in modules for part in module.modules() if not list(part.children())]


@contextmanager
def weights_used():
    """A list that gets the number of weights of each product and norm that runs in a decoder layer, in an
    exit head, and in the LM head for a state that it has not read. What fills the caches of skipped layers
    runs outside of a layer."""
    used, in_a_layer, read = [], [], set()

    def read_by_the_lm_head(module, inputs):
        state = inputs[0].numpy().tobytes()  # confidence and token of an exit read the same one
        used.append(0 if state in read else size(module))
        read.add(state)

    with ExitStack() as hooks:
        hooks.enter_context(MODEL.lm_head.register_forward_pre_hook(read_by_the_lm_head))
        for block in BLOCKS:
            hooks.enter_context(block.register_forward_pre_hook(lambda *_: in_a_layer.append(True)))
            hooks.enter_context(block.register_forward_hook(lambda *_: in_a_layer.clear()))
        for part in leaves(BLOCKS):
            if part not in NOT_COUNTED:
                hooks.enter_context(
                    part.register_forward_pre_hook(lambda own, _: used.append(size(own) * len(in_a_layer)))
                )
        for part in leaves([MODEL.exit_heads]):
            hooks.enter_context(part.register_forward_pre_hook(lambda own, _: used.append(size(own))))
        yield used


def counted(**policy) -> tuple[float, float]:
    """Mean weights and mean decoder layers a token, of a text that the reference decodes."""
    options = {"exit_policy": ExitPolicy(**policy), "custom_generate": reference_generate}
    with weights_used() as used:
        output = MODEL.generate(
            **source_batch(1, 8), **options, max_new_tokens=12, return_dict_in_generate=True
        )
    layers = output.exit_layers[0]
    return sum(used) / len(layers), layers.float().mean().item()


def cost(layers, precision="float32", **policy):
    return bytes_per_token(MODEL, DecodingSetting(ExitPolicy(**policy), precision), np.array(layers)).tolist()


@pytest.mark.parametrize(("precision", "bytes_a_weight"), [("float32", 4), ("bfloat16", 2), ("int8", 1)])
@pytest.mark.parametrize("layer", [1, 3, 4])
def test_static_exits_read_their_layers_and_the_head_once(precision, bytes_a_weight, layer):
    weights, _ = counted(static_layer=layer)
    assert cost([float(layer)], precision, static_layer=layer) == [bytes_a_weight * weights]


@pytest.mark.parametrize(
    ("measure", "threshold"),
    [("softmax", 0.05), ("softmax_max", 0.1), ("entropy", 0.3), ("hidden_state", 0.7)]
    + [(head, 0.5) for head in HEADS],
)
@pytest.mark.parametrize("min_layer", [0, 2, 9])
@pytest.mark.parametrize("static_layer", [None, 3])
def test_measures_read_what_the_reference_reads(measure, threshold, min_layer, static_layer):
    policy = {
        "measure": measure,
        "threshold": threshold,
        "min_layer": min_layer,
        "static_layer": static_layer,
    }
    weights, layers = counted(**policy)
    last = static_layer or 4
    assert layers == last if min_layer == 9 else min_layer <= layers <= last
    one_head = size(MODEL.exit_heads[measure].heads[0]) if measure in HEADS else 0
    # No head is asked at the last layer; how many tokens reached it does not follow from the mean of layers.
    unknown = 4 * one_head if layers < last else 0
    assert cost([layers], **policy) == pytest.approx([4 * weights], rel=1e-6, abs=unknown)


@pytest.mark.parametrize("last_asked", [1, 2, 3])
@pytest.mark.parametrize("static_layer", [None, 3])
def test_beyond_the_last_exit_nobody_is_asked(last_asked, static_layer):
    """Where all leave there or go on to the last layer, the mean of layers says how many did which."""
    policy = {"measure": "softmax", "threshold": 0.05, "min_layer": last_asked, "max_layer": last_asked}
    weights, layers = counted(**policy, static_layer=static_layer)
    assert cost([layers], **policy, static_layer=static_layer) == pytest.approx([4 * weights], rel=1e-6)


def test_the_oracle_runs_all_layers():
    assert cost([2.0], measure="oracle", threshold=0.5) == cost([4.0], measure="softmax", threshold=0.5)


def test_propagated_and_screened_heads_are_cheaper():
    head, width = MODEL.lm_head.weight.numel(), MODEL.config.d_model
    variants = ({}, {"top_k": 10}, {"screen": True})
    whole, propagated, screened = (
        cost([3.0], measure="softmax", threshold=0.5, **more)[0] for more in variants
    )
    assert propagated == whole - 2 * 4 * (head - 10 * width)  # the second and the third look read ten rows
    assert screened == whole - 3 * 3 * head  # three looks, a byte a weight instead of four


def test_exits_read_the_rows_of_their_shortlist():
    width = MODEL.config.d_model
    rows, listed = 4 * 10 * width, {"measure": "softmax", "threshold": 0.5, "shortlist": 10}
    assert cost([1.0], **listed) == [cost([1.0], static_layer=1)[0] - 4 * MODEL.lm_head.weight.numel() + rows]
    assert cost([4.0], **listed) == [cost([4.0])[0] + 4 * rows]
    ended = cost([3.0], **listed, static_layer=3)  # asked twice; the third layer's token is of the shortlist
    assert ended == [cost([3.0], static_layer=3, shortlist=10)[0] + 2 * rows]


def test_a_screen_saves_other_measures_nothing():
    """It has bounds of softmax response alone: the others read the whole head in float32."""
    assert cost([3.0], measure="entropy", threshold=0.5, screen=True) == cost(
        [3.0], measure="entropy", threshold=0.5
    )
    assert cost([3.0], screen=True) == [cost([3.0])[0] - 3 * MODEL.lm_head.weight.numel()]


@pytest.mark.skipif(not has_native("cpu"), reason="needs the compiled kernels")
def test_tokens_of_a_large_head_are_found_through_its_copy(monkeypatch):
    """In float32, a byte a weight instead of four; confidences are not."""
    head, softmax = MODEL.lm_head.weight.numel(), {"measure": "softmax", "threshold": 0.5}
    whole = [cost([4.0])[0], cost([1.0], **softmax)[0], cost([4.0], **softmax)[0], cost([4.0], "int8")[0]]
    monkeypatch.setattr("early_exit.models.decoding_cost.WORTH_SCREENING", head)
    less = [cost([4.0])[0], cost([1.0], **softmax)[0], cost([4.0], **softmax)[0], cost([4.0], "int8")[0]]
    assert [a - b for a, b in zip(whole, less, strict=True)] == [3 * head, 0, 3 * head, 0]


@pytest.mark.parametrize("reads_lm_head", [True, False])
def test_a_measure_registered_elsewhere_is_counted_by_what_it_says(monkeypatch, reads_lm_head):
    monkeypatch.setitem(MEASURES, "new", Measure(lambda view: view.hidden[:, 0], reads_lm_head))
    expected = cost([3.0], measure="softmax" if reads_lm_head else "hidden_state", threshold=0.5)
    assert cost([3.0], measure="new", threshold=0.5) == expected
