"""Policies and settings as JSON and back, and what is refused; files of earlier versions as they stand."""

import json
from dataclasses import dataclass, fields

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from early_exit import PRECISIONS, DecodingSetting, ExitPolicy
from early_exit.calibration import Monitor
from early_exit.values import from_plain, to_plain
from tests.strategies import batch_policies, policies

precisions = st.sampled_from(list(PRECISIONS))


def through_json(setting: DecodingSetting) -> DecodingSetting:
    return DecodingSetting.from_dict(json.loads(json.dumps(setting.to_dict())))


@given(st.one_of(policies, batch_policies(rows=3)), precisions)
def test_settings_come_back_as_they_were(policy, precision):
    again = through_json(DecodingSetting(policy, precision))
    assert again.precision == precision
    for field in fields(ExitPolicy):
        before, after = getattr(policy, field.name), getattr(again.policy, field.name)
        assert type(before) is type(after)
        if isinstance(before, torch.Tensor):
            assert before.dtype == after.dtype
            assert torch.equal(before, after)
        else:
            assert before == after
    assert again == DecodingSetting(policy, precision)
    assert hash(again) == hash(DecodingSetting(policy, precision))


def test_every_knob_tells_settings_apart():
    """Each field of a policy, changed alone: a knob that identity forgot would be another setting's point."""
    base = ExitPolicy(measure="softmax", threshold=0.5)
    others = [
        ExitPolicy(measure="entropy", threshold=0.5),
        ExitPolicy(measure="softmax", threshold=0.6),
        ExitPolicy(measure="softmax", threshold=torch.tensor([0.5, 0.6])),
        ExitPolicy(measure="softmax", threshold=0.5, min_layer=2),
        ExitPolicy(measure="softmax", threshold=0.5, position_temperature=4.0),
        ExitPolicy(measure="softmax", threshold=0.5, top_k=5),
        ExitPolicy(measure="softmax", threshold=0.5, screen=True),
        ExitPolicy(measure="softmax", threshold=0.5, max_layer=2),
        ExitPolicy(measure="softmax", threshold=0.5, shortlist=5),
        ExitPolicy(measure="softmax", threshold=0.5, shortlist=5, shortlist_at_full_depth=True),
        ExitPolicy(measure="softmax", threshold=0.5, verify="exact"),
        ExitPolicy(measure="softmax", threshold=0.5, verify="exact", max_draft=3),
        ExitPolicy(measure="softmax", threshold=0.5, verify="lenient", accept_ratio=0.5),
        ExitPolicy(measure="softmax", threshold=0.5, verify="rollback", rollback_threshold=0.5),
        ExitPolicy(static_layer=2),
        ExitPolicy(static_layer=torch.tensor([2, 1])),
    ]
    changed = {
        field.name
        for other in others
        for field in fields(ExitPolicy)
        if repr(getattr(other, field.name)) != repr(getattr(base, field.name))
    }
    assert changed == {field.name for field in fields(ExitPolicy)}
    settings = [DecodingSetting(policy) for policy in (base, *others)] + [DecodingSetting(base, "int8")]
    assert len(set(settings)) == len(settings)


def test_one_number_has_one_dictionary():
    whole, rounded = (
        ExitPolicy(measure="softmax", threshold=threshold, position_temperature=4) for threshold in (1, 1.0)
    )
    assert json.dumps(whole.to_dict()) == json.dumps(rounded.to_dict())
    assert DecodingSetting(ExitPolicy(threshold=torch.tensor(0.5))) == DecodingSetting(
        ExitPolicy(threshold=np.float64(0.5))
    )


@pytest.mark.parametrize(
    ("written", "policy"),
    [
        # As loss tables and configurations were written before there were top_k and screen.
        (
            '{"measure": "softmax", "threshold": 0.98, "min_layer": 1, "position_temperature": null}',
            ExitPolicy(measure="softmax", threshold=0.98, min_layer=1),
        ),
        # And with them, before there was a version.
        (
            '{"measure": "softmax", "threshold": 0.5, "min_layer": 0, "position_temperature": 4.0, '
            '"top_k": 20, "screen": false}',
            ExitPolicy(measure="softmax", threshold=0.5, position_temperature=4.0, top_k=20),
        ),
        ("{}", ExitPolicy()),
    ],
)
def test_policies_of_earlier_versions(written, policy):
    assert ExitPolicy.from_dict(json.loads(written)) == policy


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"version": 2}, "ExitPolicy of version 2; this code reads versions up to 1"),
        ({"version": "new"}, "version 'new'"),
        ({"draft": 3, "measure": None, "block": 1}, "unknown keys of ExitPolicy: block, draft"),
        ({"threshold": "0.5"}, "ExitPolicy.threshold '0.5'"),
        ({"threshold": None}, "ExitPolicy.threshold None"),
        ({"threshold": ["a"]}, "ExitPolicy.threshold"),
        ({"threshold": 1.5}, "threshold 1.5 is outside"),
        ({"min_layer": 1.5}, "ExitPolicy.min_layer 1.5"),
        ({"min_layer": True}, "ExitPolicy.min_layer True"),
        ({"screen": 1}, "ExitPolicy.screen 1"),
        ({"static_layer": [[1], [2, 3]]}, "no list of numbers"),
        ({"measure": "sofmax"}, "unknown confidence measure"),
    ],
)
def test_what_is_no_policy_is_named(values, message):
    with pytest.raises(ValueError, match=message):
        ExitPolicy.from_dict(values)
    with pytest.raises(ValueError, match=message):
        DecodingSetting.from_dict({**values, "precision": "float32"})


def test_what_is_no_setting_is_named():
    with pytest.raises(ValueError, match="without its precision"):
        DecodingSetting.from_dict(ExitPolicy().to_dict())
    with pytest.raises(ValueError, match="unknown precision 'int3'"):
        DecodingSetting.from_dict({"precision": "int3"})


def test_a_field_without_a_default_must_be_there():
    @dataclass(frozen=True)
    class Pair:
        one: int
        two: dict[str, int] | None = None

    assert from_plain(Pair, to_plain(Pair(1, {"a": 2}), 3), 3) == Pair(1, {"a": 2})
    with pytest.raises(ValueError, match=r"Pair: .*'one'"):
        from_plain(Pair, {"two": None}, 3)


def test_numbers_that_no_tensor_holds_are_named():
    with pytest.raises(ValueError, match=r"static_layer .* is no list of numbers"):
        ExitPolicy.from_dict({"version": 1, "static_layer": [10**30]})


def test_a_monitors_state_with_other_fields_is_refused():
    with pytest.raises(ValueError, match=r"no state of a monitor: .*'colour'"):
        Monitor.from_dict({**Monitor(0.1).to_dict(), "colour": "red"})
