"""Losses of exit heads against their definitions, token by token in float64."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from early_exit.head_losses import head_cross_entropy, labelled_layers


@st.composite
def decisions(draw):
    """log_odds and agrees, both [layers, tokens]."""
    layers, tokens = draw(st.integers(1, 4)), draw(st.integers(1, 5))
    odds = draw(st.lists(st.floats(-8, 8, width=32), min_size=layers * tokens, max_size=layers * tokens))
    agrees = draw(st.lists(st.booleans(), min_size=layers * tokens, max_size=layers * tokens))
    return torch.tensor(odds).view(layers, tokens), torch.tensor(agrees).view(layers, tokens)


def probability(log_odds):
    return 1 / (1 + math.exp(-log_odds))


@given(decisions())
def test_independent_is_the_cross_entropy_of_every_layer(decision):
    log_odds, agrees = decision
    layers, tokens = log_odds.shape
    expected = 0.0
    for layer in range(layers):
        for token in range(tokens):
            share = probability(log_odds[layer, token].item())
            expected -= math.log(share if agrees[layer, token] else 1 - share)
    loss = head_cross_entropy(log_odds, agrees, labelled_layers("independent", agrees))
    assert loss.item() == pytest.approx(expected / layers, rel=1e-5, abs=1e-6)


@given(decisions())
def test_geometric_is_the_probability_of_leaving_at_the_first_layer_that_agrees(decision):
    log_odds, agrees = decision
    layers, tokens = log_odds.shape
    expected = 0.0
    for token in range(tokens):
        leaves_there = 1.0
        for layer in range(layers):
            share = probability(log_odds[layer, token].item())
            if agrees[layer, token]:
                leaves_there *= share
                break
            leaves_there *= 1 - share
        expected -= math.log(leaves_there)
    loss = head_cross_entropy(log_odds, agrees, labelled_layers("geometric", agrees))
    assert loss.item() == pytest.approx(expected / layers, rel=1e-5, abs=1e-6)


def test_an_unknown_loss_lists_the_known():
    with pytest.raises(ValueError, match=r"'geometrik'.*independent, geometric"):
        labelled_layers("geometrik", torch.ones(1, 1, dtype=torch.bool))
