import math

import pytest

from early_exit import ExitPolicy
from early_exit.adaptive import AdaptiveThreshold
from util.errors import UsageError
from util.exit_arguments import ExitArguments
from util.shallow_deep import UNLIMITED_DRAFTS, translate_shallow_deep


def policy(**flags) -> ExitPolicy:
    exits = ExitArguments(use_shallow_deep=True, **flags)
    translate_shallow_deep(exits)
    [policy] = exits.policies.listed
    return policy


def shallow(**fields) -> ExitPolicy:
    return ExitPolicy(min_layer=2, max_layer=2, **fields)


def test_flags_of_free_are_exits_at_one_layer():
    softmax = {"measure": "softmax", "threshold": 0.8}
    flags = {"shallow_exit_layer": 2, "shallow2deep_conf_threshold": 0.8}
    drafts = {"max_draft": UNLIMITED_DRAFTS}
    assert policy(**flags) == shallow(**softmax, **drafts, verify="parallel")
    copied = {"copy_skipped_hidden_states": True}
    assert policy(**flags, **copied) == shallow(**softmax)
    assert policy(**flags, **copied, parallel_gen_token=False) == shallow(**softmax)
    rolled = policy(**flags, rollback_conf_threshold=1.5)
    assert rolled == shallow(**softmax, **drafts, verify="rollback", rollback_threshold=math.exp(-1.5))
    meta = policy(shallow_exit_layer=2, shallow2deep_conf_type="meta")
    assert meta == shallow(measure="vanilla_classifier", threshold=1.0, **drafts, verify="parallel")
    assert [rolled.tries_exit(layer, 6) for layer in range(1, 7)] == [False, True, *[False] * 4]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({}, "needs --shallow_exit_layer"),
        ({"shallow_exit_layer": 2, "shallow2deep_conf_type": "oracle"}, "known: softmax, meta"),
        ({"shallow_exit_layer": 2, "parallel_gen_token": False}, "--copy_skipped_hidden_states True"),
        (
            {"shallow_exit_layer": 2, "copy_skipped_hidden_states": True, "rollback_conf_threshold": 1.0},
            "contradict",
        ),
        ({"shallow_exit_layer": 2, "rollback_conf_threshold": -1.0}, "no cross-entropy"),
        ({"shallow_exit_layer": 2, "use_early_exit": True}, "--use_early_exit contradict"),
        ({"shallow_exit_layer": 2, "exit_min_layer": 1}, "--exit_min_layer contradict"),
        (
            {"shallow_exit_layer": 2, "copy_skipped_hidden_states": True, "use_adapt_threshold": True},
            "--use_adapt_threshold and --copy_skipped_hidden_states contradict",
        ),
        ({"shallow_exit_layer": 2, "freeze_adapt_threshold": 5}, "without --use_adapt_threshold True"),
        (
            {"shallow_exit_layer": 2, "use_adapt_threshold": True, "freeze_adapt_threshold": 0},
            "--freeze_adapt_threshold 0 is too small; allowed: 1 and above",
        ),
    ],
)
def test_contradictions_are_one_line(flags, message):
    with pytest.raises(UsageError, match=message):
        policy(**flags)


def test_a_threshold_that_adapts_starts_from_the_one_given():
    flags = {"shallow_exit_layer": 2, "shallow2deep_conf_threshold": 0.7}
    for more, expected in (
        ({}, None),
        ({"use_adapt_threshold": True}, AdaptiveThreshold(0.7, 300)),
        ({"use_adapt_threshold": True, "freeze_adapt_threshold": 20}, AdaptiveThreshold(0.7, 20)),
    ):
        exits = ExitArguments(use_shallow_deep=True, **flags, **more)
        translate_shallow_deep(exits)
        found = exits.adaptive
        assert (found is None) == (expected is None)
        if expected is not None:
            assert (found.threshold, found.freeze_after) == (expected.threshold, expected.freeze_after)


def test_they_do_nothing_alone():
    with pytest.raises(UsageError, match="--use_adapt_threshold has no effect without --use_shallow_deep"):
        translate_shallow_deep(ExitArguments(use_adapt_threshold=True))
    with pytest.raises(UsageError, match="--shallow_exit_layer has no effect without --use_shallow_deep"):
        translate_shallow_deep(ExitArguments(shallow_exit_layer=2))
    translate_shallow_deep(ExitArguments())
