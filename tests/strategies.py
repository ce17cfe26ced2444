"""What property-based tests draw."""

from dataclasses import replace

import torch
from hypothesis import settings
from hypothesis import strategies as st

from early_exit import MEASURES, ExitPolicy, get_measure
from tests.tiny import HEADS


def examples(share: float) -> settings:
    """A share of the profile's number of examples, at least one: quick runs draw fewer here, too."""
    return settings(max_examples=max(1, round(share * settings.default.max_examples)))


layers = st.integers(1, 4)
shortlists = st.one_of(st.none(), st.sampled_from([1, 16, 17, 97]), st.integers(1, 97))


@st.composite
def listed(draw, policy: ExitPolicy) -> ExitPolicy:
    """The policy, perhaps with a shortlist of its model's 97 tokens, perhaps at full depth too."""
    size = draw(shortlists)
    deep = size is not None and draw(st.booleans())
    return replace(policy, shortlist=size, shortlist_at_full_depth=deep)


@st.composite
def ending(draw, policy: ExitPolicy) -> ExitPolicy:
    """The policy of a measure, perhaps with a layer that every token leaves at, at the latest."""
    if get_measure(policy.measure).needs_full_depth:
        return policy
    return replace(policy, static_layer=draw(st.one_of(st.none(), layers)))


policies = st.one_of(
    st.builds(ExitPolicy, static_layer=layers).flatmap(listed),
    st.builds(ExitPolicy, static_layer=st.lists(layers, min_size=1, max_size=12).map(torch.tensor)).flatmap(
        listed
    ),
    st.builds(
        ExitPolicy,
        measure=st.sampled_from([*MEASURES, *HEADS]),
        threshold=st.floats(0, 1),
        min_layer=st.integers(0, 5),
        position_temperature=st.one_of(st.none(), st.floats(0, 8)),
    )
    .flatmap(ending)
    .flatmap(listed),
    st.builds(
        ExitPolicy,
        measure=st.just("softmax"),
        threshold=st.floats(0, 1),
        min_layer=st.integers(0, 5),
        top_k=st.one_of(st.sampled_from([1, 2, 96, 97]), st.integers(1, 97)),
    ).flatmap(ending),
)


@st.composite
def batch_policies(draw, rows: int):
    """A policy for a batch, with a threshold or a schedule of layers a row where it has any."""
    policy = draw(policies)
    if isinstance(policy.static_layer, torch.Tensor):
        steps = len(policy.static_layer)
        schedule = st.lists(layers, min_size=steps, max_size=steps)
        return replace(policy, static_layer=torch.tensor([draw(schedule) for _ in range(rows)]))
    if policy.measure is None:
        return policy
    thresholds = draw(st.lists(st.floats(0, 0.625, width=32), min_size=rows, max_size=rows))
    return replace(policy, threshold=torch.tensor(thresholds))
