"""Policies of flags, before and after the model is known."""

import pytest

from early_exit import ExitPolicy
from tests.tiny import MODELS
from util.errors import UsageError
from util.exit_arguments import ExitArguments

MODEL = MODELS["t5"]


def found(**flags) -> list[ExitPolicy]:
    return ExitArguments(**flags).policies.of(MODEL)


@pytest.mark.parametrize(
    ("text", "layers"), [("all", range(1, MODEL.num_exits + 1)), ("last", [MODEL.num_exits])]
)
def test_layers_that_are_counted_from_the_model(text, layers):
    drafts = {"verify": "exact", "max_draft": [2, 3]}
    expected = [
        ExitPolicy(static_layer=layer, verify="exact", max_draft=number)
        for layer in layers
        for number in (2, 3)
    ]
    assert found(static_exit_layer=[text], **drafts) == expected


def test_confidence_with_layers_that_tokens_leave_at_the_latest():
    exits = {"use_early_exit": True, "exit_conf_threshold": [0.9, 0.5]}
    expected = [
        ExitPolicy(measure="softmax", threshold=threshold, static_layer=layer)
        for layer in (2, 3)
        for threshold in (0.9, 0.5)
    ]
    assert found(static_exit_layer=["2", "3"], **exits) == expected
    every = found(static_exit_layer=["all"], **exits)
    assert [policy.static_layer for policy in every] == [
        layer for layer in range(1, MODEL.num_exits + 1) for _ in range(2)
    ]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"static_exit_layer": ["1", "99"]}, "static exit layer 99 is outside 1 to"),
        ({"use_early_exit": True, "top_propagation": ["10000000"]}, "10000000 propagated tokens, of a vocab"),
        ({"static_exit_layer": ["0"]}, "static exit layer 0; layers count from 1"),
        ({"static_exit_layer": ["all", "2"]}, "'all' is neither a layer number nor"),
        ({"static_exit_layer": ["2"], "use_early_exit": True, "verify": "exact"}, "not by both"),
    ],
)
def test_what_the_model_does_not_have_is_refused(flags, message):
    with pytest.raises(UsageError, match=message):
        found(**flags)


def test_without_exits_there_is_full_depth_alone():
    assert found() == [ExitPolicy()]
    assert found(lm_head_screen=True) == [ExitPolicy(screen=True)]
