"""The perturbed decoder against the decoder that advances a token and a layer at a time."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from early_exit import Objective
from early_exit.models.joint_training import JointTraining
from early_exit.models.perturbed_decoder import Perturbation, layer_dropout_shares, perturbed_states
from early_exit.models.reference_decoder import ReferenceDecoder
from tests.tiny import MODELS, source_batch, tiny_model

ROWS, LENGTH = 2, 5


def batch(seed):
    torch.manual_seed(seed)
    return source_batch(ROWS, 6, seed), torch.randint(2, 97, (ROWS, LENGTH))


@torch.no_grad()
def reference_states(model, source, mask, tokens, exits):
    """States [layer][position] of one row: each token as it would run through all layers, after the others
    have left where they leave."""
    decoder = ReferenceDecoder(model, source, mask)
    states = [[] for _ in range(decoder.num_layers)]
    for token, exit in zip(tokens, exits.tolist(), strict=True):
        start, through = decoder.embed(token[None]), decoder.fork()
        hidden = start
        through.embed(token[None])
        for layer in range(1, decoder.num_layers + 1):
            hidden = through.run_layer(layer, hidden)
            states[layer - 1].append(hidden)
        hidden = start
        for layer in range(1, decoder.num_layers + 1):
            if layer <= exit:
                hidden = decoder.run_layer(layer, hidden)
            else:
                decoder.fill_layer(layer, hidden)
    return torch.stack([torch.cat(each) for each in states])  # [L, length, d_model]


@pytest.mark.parametrize("family", MODELS)
@settings(max_examples=5)
@given(seed=st.integers(0, 1000))
def test_tokens_see_what_decoding_leaves_of_the_others(family, seed):
    model = MODELS[family]
    inputs, tokens = batch(seed)
    exits = torch.randint(1, model.num_exits + 1, (ROWS, LENGTH))
    with torch.no_grad():
        source = model.encoder(**inputs).last_hidden_state
        embeddings, kept = model.decoder.embed_tokens(tokens), torch.ones(4, ROWS, dtype=torch.bool)
        states = perturbed_states(model, embeddings, source, inputs["attention_mask"], exits, kept)
    for row in range(ROWS):
        mask = inputs["attention_mask"][row, None]
        wanted = reference_states(model, source[row, None], mask, tokens[row], exits[row])
        own = torch.stack([state[row] for state in states])
        torch.testing.assert_close(own, wanted, rtol=1e-4, atol=1e-4 * wanted.abs().max().item())


@pytest.mark.parametrize("family", MODELS)
def test_without_exits_and_drops_it_is_transformers_decoder_with_its_gradients(family):
    inputs, tokens = batch(1)
    losses, gradients = [], []
    model = copy.deepcopy(MODELS[family]).train()  # the tiny models have no dropout
    for perturbation in (Perturbation(), Perturbation(propagation=1e-12)):
        training = JointTraining(Objective("ce"), perturbation)
        loss = model(**inputs, labels=tokens, exit_loss=training).loss
        losses.append(loss)
        gradients.append(
            torch.autograd.grad(
                loss, list(model.decoder.parameters()), materialize_grads=True, allow_unused=True
            )
        )
    torch.testing.assert_close(*losses)
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4 * max(1e-3, one.abs().max().item()))


def test_a_layer_that_is_left_out_for_some_rows_is_not_there_for_them():
    model = tiny_model()
    inputs, tokens = batch(2)
    kept = torch.tensor([[True, True], [True, False], [True, True], [False, True]])
    exits = torch.full((ROWS, LENGTH), 4)
    with torch.no_grad():
        source = model.encoder(**inputs).last_hidden_state
        embeddings = model.decoder.embed_tokens(tokens)
        states = perturbed_states(model, embeddings, source, inputs["attention_mask"], exits, kept)
        for row in range(ROWS):
            shallower = copy.deepcopy(model)
            shallower.decoder.block = torch.nn.ModuleList(
                block for block, there in zip(shallower.decoder.block, kept[:, row], strict=True) if there
            )
            output = shallower.decoder(
                input_ids=tokens[row, None],
                encoder_hidden_states=source[row, None],
                encoder_attention_mask=inputs["attention_mask"][row, None],
                use_cache=False,
            ).last_hidden_state
            torch.testing.assert_close(model.decoder.final_layer_norm(states[-1][row, None]), output)


def test_the_perturbation_is_of_training_alone_and_moves_the_loss():
    model = tiny_model()
    inputs, tokens = batch(3)
    plain, perturbed = (JointTraining(Objective(), Perturbation(propagation=share)) for share in (0.0, 0.9))
    assert (
        model(**inputs, labels=tokens, exit_loss=plain).loss
        == model(**inputs, labels=tokens, exit_loss=perturbed).loss
    )
    model.train()
    assert (
        model(**inputs, labels=tokens, exit_loss=plain).loss
        != model(**inputs, labels=tokens, exit_loss=perturbed).loss
    )


def test_what_is_drawn_has_the_shares_asked_for():
    exits = Perturbation(propagation=0.3).exits(200, 100, 5, torch.device("cpu"))
    shares = torch.bincount(exits.flatten(), minlength=6) / exits.numel()
    assert shares[0] == 0
    torch.testing.assert_close(shares[1:], torch.tensor([0.075] * 4 + [0.7]), atol=0.01, rtol=0)
    kept = Perturbation(layer_dropout=0.4).kept(20_000, 3, torch.device("cpu"))
    wanted = torch.tensor([1, 1 - 0.4 * (2**0.5 - 1), 0.6])
    torch.testing.assert_close(kept.float().mean(1), wanted, atol=0.02, rtol=0)


def test_layer_dropout_rises_from_none_to_the_share_asked_for():
    assert layer_dropout_shares(0.2, 1) == [0]
    shares = layer_dropout_shares(0.2, 12)
    assert shares[0] == 0
    assert shares[-1] == pytest.approx(0.2)
    assert shares == sorted(shares)


@pytest.mark.parametrize("name", ["propagation", "layer_dropout"])
@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan")])
def test_shares_are_shares(name, value):
    with pytest.raises(ValueError, match=rf"{name} {value} is outside \[0, 1\]"):
        Perturbation(**{name: value})
