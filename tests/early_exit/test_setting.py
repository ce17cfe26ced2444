"""Which settings let a token leave, asked of the policy itself at every position and layer."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from early_exit import DecodingSetting, ExitPolicy

policies = st.builds(
    ExitPolicy,
    measure=st.sampled_from([None, "softmax", "hidden_state"]),
    threshold=st.sampled_from([0.0, 0.5, 1.0]),
    min_layer=st.integers(0, 5),
    position_temperature=st.sampled_from([None, 0.0, 2.0]),
)
ending = policies.filter(lambda policy: policy.measure is not None)


@given(policies, st.integers(1, 5))
def test_a_setting_exits_where_full_confidence_would(policy, layers):
    tried = any(policy.tries_exit(layer, layers) for layer in range(1, layers))
    leaves = any(bool(policy.exits(torch.tensor([1.0]), position, 8)[0]) for position in range(8))
    assert DecodingSetting(policy).exits(layers) == (tried and leaves)


@given(ending, st.integers(1, 5), st.integers(0, 3))
def test_a_static_layer_below_full_depth_is_an_exit_whatever_the_threshold(policy, layers, above):
    whole = DecodingSetting(policy).exits(layers)
    assert DecodingSetting(replace(policy, static_layer=layers + above)).exits(layers) == whole
    assert DecodingSetting(replace(policy, static_layer=layers)).exits(layers + 1)


@pytest.mark.parametrize(
    ("setting", "full"),
    [
        (DecodingSetting(), True),
        (DecodingSetting(ExitPolicy(static_layer=2)), False),
        (DecodingSetting(ExitPolicy(static_layer=4)), True),
        (DecodingSetting(ExitPolicy(static_layer=torch.tensor([4, 3]))), False),
        (DecodingSetting(ExitPolicy(measure="softmax", threshold=1.0)), True),
        (DecodingSetting(ExitPolicy(measure="softmax", threshold=1.0), "int8"), False),  # other numbers
        (DecodingSetting(ExitPolicy(measure="softmax", threshold=1.0, top_k=2)), False),  # of the first layer
        (DecodingSetting(ExitPolicy(measure="softmax", threshold=torch.tensor([1.0, 0.9]))), False),
    ],
)
def test_the_full_model(setting, full):
    assert setting.is_full_model(4) == full
