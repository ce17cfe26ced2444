"""A verdict can be written for everything in the registries, and for what is registered elsewhere."""

import json

import numpy as np
import pytest

from early_exit import DecodingSetting, ExitPolicy
from early_exit.bounds import BOUNDS, Bound
from early_exit.calibration import TESTS, Candidates, calibrate, calibrate_chains
from early_exit.calibration.lossless import with_lossless
from util.dissimilarity import CONSISTENCY, TEXTUAL, Comparison
from util.held_out import HeldOut
from util.verdict import Context, entry, verdict

THRESHOLDS = [1.0, 0.5]
LOSSES = np.zeros((40, 2))
PIPELINE = {"precision": "float32", "LM head": "whole", "weights": "a", "generation": {"min_length": 4}}


def context(consistency="textual", loss="rouge"):
    return Context("softmax", consistency, loss, PIPELINE, num_layers=4, settings=2, seed=1)


def words(found, index, consistency="textual", loss="rouge", policy=None):
    setting = DecodingSetting(policy or ExitPolicy(measure="softmax", threshold=THRESHOLDS[index or 0]))
    result = entry(found, setting, HeldOut([0.0, 0.1], 2.0, 1.5), None, context(consistency, loss))
    json.dumps(result)
    return verdict(result, context(consistency, loss))


@pytest.mark.parametrize("bound", BOUNDS)
@pytest.mark.parametrize("test", [name for name, each in TESTS.items() if not each.several_knobs])
@pytest.mark.parametrize("delta", [0.5, 0.001])
def test_every_bound_and_test_has_words(bound, test, delta):
    found = calibrate(LOSSES, THRESHOLDS, delta, 0.05, bound, test)
    text = words(found, found.index)
    assert text.startswith("certified: softmax, λ = " if delta == 0.5 else "NOT CERTIFIED: full model")
    assert BOUNDS[bound].label in text
    assert TESTS[test].label in text


@pytest.mark.parametrize(
    ("consistency", "loss"), [(kind, name) for kind, losses in CONSISTENCY.items() for name in losses]
)
def test_every_loss_has_words(consistency, loss):
    found = calibrate(LOSSES, THRESHOLDS, 0.2, 0.05, "wsr", "fixed_sequence")
    assert CONSISTENCY[consistency][loss].label in words(found, found.index, consistency, loss)


@pytest.mark.parametrize("certified", [True, False])
def test_a_bound_and_a_loss_registered_elsewhere_have_theirs(monkeypatch, certified):
    bound = Bound(lambda losses, delta, epsilon: 0.0 if certified else 1.0, "a new bound")
    monkeypatch.setitem(BOUNDS, "new", bound)
    monkeypatch.setitem(TEXTUAL, "new", Comparison(lambda text, other: 0.0, "a new loss"))
    found = calibrate(LOSSES, THRESHOLDS, 0.2, 0.05, "new", "fixed_sequence")
    text = words(found, found.index, "textual", "new")
    assert "a new bound" in text
    assert "a new loss" in text


def test_what_is_not_plain_greedy_decoding_is_said():
    found = calibrate(LOSSES, THRESHOLDS, 0.2, 0.05, "wsr", "fixed_sequence")
    assert "min_length 4" in words(found, found.index)


@pytest.mark.parametrize(
    ("policy", "start"),
    [
        (ExitPolicy(static_layer=3), "certified: every token after layer 3, float32:"),
        (
            ExitPolicy(measure="softmax", threshold=0.5, static_layer=3),
            "certified: softmax, λ = 0.5, after layer 3 at the latest, float32, no exit before layer 1:",
        ),
    ],
)
def test_static_layers_have_words(policy, start):
    settings = Candidates(THRESHOLDS, [False, False], [2.0, 1.0])
    found = calibrate_chains(LOSSES, [2], settings, 0.2, 0.05)
    assert words(found, found.index, policy=policy).startswith(start)


def test_drafts_that_cannot_lose_anything_are_not_said_to_be_within_a_delta():
    asked = {"delta": 0.1, "epsilon": 0.05, "bound": "wsr", "test": "chains"}
    found = with_lossless(None, [], [0], [0.5], [1.0], **asked)
    setting = DecodingSetting(ExitPolicy(measure="softmax", threshold=0.5, verify="exact"))
    result = entry(found, setting, HeldOut([0.0, 0.0], 2.0, 1.5), None, context())
    json.dumps(result)
    text = verdict(result, context())
    assert "exact drafts (to full depth in float32)" in text
    assert "the full model's text, token for token" in text.splitlines()[0]
    assert "any prompts" in text
    assert "≤ 0.1" not in text
    assert result["promised"] == "the full model's text, token for token"


def test_groups_are_checked_each_for_itself():
    """A group that breaks the promise is not hidden by the mean of all."""
    found = calibrate(LOSSES, THRESHOLDS, 0.2, 0.05)
    losses, groups = [0.01, 0.03] * 9 + [0.5, 0.7, 0.9], ["a"] * 18 + ["b"] * 2 + ["c"]
    setting = DecodingSetting(ExitPolicy(measure="softmax", threshold=0.5))
    result = entry(found, setting, HeldOut(losses, 2.0, 1.5, groups), None, context())
    checked = result["held_out"]
    assert checked["mean"] == pytest.approx(np.mean(losses))
    assert {name: (group["n"], group["mean"]) for name, group in checked["groups"].items()} == {
        "a": (18, pytest.approx(0.02)),
        "b": (2, pytest.approx(0.6)),  # one prompt of c says nothing
    }
    assert "held out, by group: a (n = 18) 0.020 [" in verdict(result, context())
    assert "by group" not in words(found, found.index)
