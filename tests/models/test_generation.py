"""Decoding through `generate`: exits off against transformers' own loop, exits on against a loop
without any cache."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers.masking_utils import create_bidirectional_mask, create_causal_mask

from early_exit import ExitPolicy
from tests.tiny import FAMILIES, source_batch, tiny_model

MODELS = {family: tiny_model(family) for family in FAMILIES}
FULL_DEPTH = ExitPolicy()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("rows", [1, 8])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"min_new_tokens": 6},
        {"no_repeat_ngram_size": 2, "repetition_penalty": 1.3},
        {"bad_words_ids": [[5], [7, 9]], "suppress_tokens": [11]},
        {"forced_eos_token_id": 1, "exponential_decay_length_penalty": (3, 1.5)},
        {"encoder_no_repeat_ngram_size": 1, "forced_bos_token_id": 8},
    ],
    ids=lambda options: "-".join(options) or "plain",
)
def test_exits_off_gives_the_tokens_of_generate(family, rows, options):
    inputs = source_batch(rows, longest=9)
    expected = MODELS[family].generate(**inputs, **options, max_new_tokens=12)
    decoded = MODELS[family].generate(**inputs, **options, max_new_tokens=12, exit_policy=FULL_DEPTH)
    assert torch.equal(decoded, expected)


def test_sampling_draws_as_generate_does():
    inputs = source_batch(1, longest=9)
    options = {"do_sample": True, "temperature": 0.8, "top_k": 20, "top_p": 0.95, "max_new_tokens": 12}
    torch.manual_seed(3)
    expected = MODELS["t5"].generate(**inputs, **options)
    torch.manual_seed(3)
    assert torch.equal(MODELS["t5"].generate(**inputs, **options, exit_policy=FULL_DEPTH), expected)


def test_a_decoder_prefix_and_several_sequences_a_source():
    inputs = source_batch(2, longest=9) | {"decoder_input_ids": torch.tensor([[0, 12, 40], [0, 33, 2]])}
    expected = MODELS["t5"].generate(**inputs, max_new_tokens=6)
    assert torch.equal(MODELS["t5"].generate(**inputs, max_new_tokens=6, exit_policy=FULL_DEPTH), expected)
    several = MODELS["t5"].generate(
        **inputs, max_new_tokens=6, do_sample=True, num_return_sequences=3, exit_policy=FULL_DEPTH
    )
    assert several.shape == (6, 9)


@torch.no_grad()
def decode_without_cache(model, input_ids, policy: ExitPolicy, max_new_tokens: int):
    """CALM's semantics spelled out: every layer keeps the states it was given, and a new token runs the
    layer over all of them again. One source without padding; softmax confidence; greedy.

    Returns a list of (token, exit layer, confidence)."""
    source = model.encoder(input_ids=input_ids).last_hidden_state
    stack, num_layers = model.decoder, model.num_exits
    given_states = {layer: torch.zeros(1, 0, model.config.d_model) for layer in range(1, num_layers + 1)}
    token, result = torch.tensor([[0]]), []
    for position in range(max_new_tokens):
        state, exit_layer, confidence = stack.embed_tokens(token), None, float("nan")
        for layer in range(1, num_layers + 1):
            given_states[layer] = torch.cat([given_states[layer], state], dim=1)
            if exit_layer is not None:
                continue  # the exit state is what a skipped layer is given
            state = run_layer_over_all(model, layer, given_states[layer], source)
            if policy.static_layer == layer or layer == num_layers:
                exit_layer = layer
            elif policy.measure and max(policy.min_layer, 1) <= layer:
                first, second = model.exit_logits(state)[0, 0].softmax(-1).topk(2).values.tolist()
                threshold = policy.threshold
                if policy.position_temperature is not None:
                    decay = math.exp(-policy.position_temperature * position / max_new_tokens)
                    threshold *= 0.9 + 0.1 * decay
                if first - second > threshold:
                    exit_layer, confidence = layer, first - second
        token = model.exit_logits(state).argmax(-1)
        result.append((token.item(), exit_layer, confidence))
        if token.item() == 1:
            break
    return result


def run_layer_over_all(model, layer, states, source):
    """A decoder layer over the states of all positions [1, n, d_model] → its last output [1, 1, d_model]."""
    stack, length = model.decoder, states.shape[1]
    masks = {"config": stack.config, "inputs_embeds": states, "attention_mask": None}
    return stack.block[layer - 1](
        states,
        attention_mask=create_causal_mask(**masks, past_key_values=None),
        position_bias=stack.block[0].layer[0].SelfAttention.compute_bias(length, length),
        encoder_hidden_states=source,
        encoder_attention_mask=create_bidirectional_mask(**masks, encoder_hidden_states=source),
    )[0][:, -1:]


policies = st.one_of(
    st.builds(ExitPolicy, static_layer=st.integers(1, 4)),
    st.builds(
        ExitPolicy,
        measure=st.just("softmax"),
        threshold=st.floats(0, 1),
        min_layer=st.integers(0, 5),
        position_temperature=st.one_of(st.none(), st.floats(0, 8)),
    ),
)


@given(
    family=st.sampled_from(list(FAMILIES)), policy=policies, length=st.integers(1, 9), seed=st.integers(0, 99)
)
def test_exits_on_equal_decoding_without_a_cache(family, policy, length, seed):
    tokens = torch.randint(2, 97, (1, length), generator=torch.Generator().manual_seed(seed))
    expected = decode_without_cache(MODELS[family], tokens, policy, max_new_tokens=10)
    decoded = MODELS[family].generate(
        input_ids=tokens, max_new_tokens=10, exit_policy=policy, return_dict_in_generate=True
    )
    assert decoded.sequences[0, 1:].tolist() == [token for token, _, _ in expected]
    assert decoded.exit_layers[0].tolist() == [layer for _, layer, _ in expected]
    torch.testing.assert_close(
        decoded.confidences[0], torch.tensor([c for _, _, c in expected]), atol=1e-5, rtol=0, equal_nan=True
    )


def test_exits_happen_at_every_layer_in_these_tests():
    """Guards the test above: a policy that never exits would prove little."""
    layers = set()
    for threshold in (0.05, 0.1, 0.2, 0.4):
        policy = ExitPolicy(measure="softmax", threshold=threshold)
        for model in MODELS.values():
            decoded = model.generate(
                **source_batch(4, 9), max_new_tokens=10, exit_policy=policy, return_dict_in_generate=True
            )
            layers |= set(decoded.exit_layers.flatten().tolist())
    assert layers >= {1, 2, 3, 4}


def test_rows_of_a_batch_decode_as_they_do_alone_each_with_its_threshold():
    inputs, thresholds = source_batch(5, longest=9), torch.tensor([0.0, 0.05, 0.2, 0.4, 1.0])
    together = MODELS["t5"].generate(
        **inputs,
        max_new_tokens=10,
        exit_policy=ExitPolicy(measure="softmax", threshold=thresholds),
        return_dict_in_generate=True,
    )
    for row, threshold in enumerate(thresholds.tolist()):
        length = int(inputs["attention_mask"][row].sum())
        alone = MODELS["t5"].generate(
            input_ids=inputs["input_ids"][row : row + 1, :length],
            max_new_tokens=10,
            exit_policy=ExitPolicy(measure="softmax", threshold=threshold),
            return_dict_in_generate=True,
        )
        steps = alone.exit_layers.shape[1]
        assert torch.equal(together.sequences[row, : steps + 1], alone.sequences[0])
        assert torch.equal(together.exit_layers[row, :steps], alone.exit_layers[0])
        assert (together.exit_layers[row, steps:] == 0).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_beams": 4}, "without beams, got num_beams=4"),
        ({"output_scores": True, "return_dict_in_generate": True}, "does not return output_scores"),
        ({"exit_policy": ExitPolicy(static_layer=5)}, "static exit layer 5 is outside 1 to 4"),
        ({"exit_policy": ExitPolicy(measure="softmax", threshold=torch.ones(3))}, "batch of 2 rows"),
    ],
)
def test_what_cannot_be_decoded_is_refused(options, message):
    settings = {**source_batch(2, 5), "max_new_tokens": 4, "exit_policy": FULL_DEPTH} | options
    with pytest.raises(ValueError, match=message):
        MODELS["t5"].generate(**settings)


def test_nan_weights_are_reported():
    model = tiny_model()
    model.decoder.block[1].layer[-1].DenseReluDense.wo.weight.data.fill_(float("nan"))
    with pytest.raises(ValueError, match="NaN"):
        model.generate(
            **source_batch(1, 5), max_new_tokens=4, exit_policy=ExitPolicy(measure="softmax", threshold=0.99)
        )
