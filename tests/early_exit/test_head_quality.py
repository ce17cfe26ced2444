"""Figures about confidences against counting."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from early_exit.head_quality import quality

tokens = st.lists(
    st.tuples(st.one_of(st.floats(0, 1), st.sampled_from([0.0, 0.5, 0.9, 1.0])), st.booleans()), min_size=1
)


@given(tokens)
def test_quality_equals_counting(tokens):
    confidence, agrees = (np.array(values) for values in zip(*tokens, strict=True))
    figures = quality(confidence, agrees)
    pairs = [(a, b) for a, yes in tokens for b, other in tokens if yes and not other]
    if pairs:
        wins = sum(1.0 if a > b else 0.5 if a == b else 0.0 for a, b in pairs)
        assert figures["auroc"] == pytest.approx(wins / len(pairs))
    else:
        assert figures["auroc"] is None
    assert figures["brier"] == pytest.approx(sum((c - a) ** 2 for c, a in tokens) / len(tokens))
    assert figures["agreement"] == pytest.approx(sum(a for _, a in tokens) / len(tokens))
    error = 0.0
    for number, (count, mean, share) in enumerate(figures["reliability"]):
        inside = [(c, a) for c, a in tokens if min(int(c * 10), 9) == number]
        assert count == len(inside)
        if inside:
            assert mean == pytest.approx(sum(c for c, _ in inside) / count)
            assert share == pytest.approx(sum(a for _, a in inside) / count)
            error += count / len(tokens) * abs(mean - share)
    assert figures["ece"] == pytest.approx(error)
