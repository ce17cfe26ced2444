"""The reference against a loop without any cache."""

import math

import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers.masking_utils import create_bidirectional_mask, create_causal_mask

from early_exit import ExitPolicy
from early_exit.models.generation import reference_generate
from tests.early_exit.test_confidence import DEFINITIONS
from tests.strategies import policies
from tests.tiny import FAMILIES, HEADS, MODELS, TOLERANCES


@torch.no_grad()
def decode_without_cache(model, input_ids, policy: ExitPolicy, max_new_tokens: int):
    """CALM's semantics spelled out: every layer keeps the states it was given, and a new token runs the
    layer over all of them again. One source without padding; greedy.

    Returns a list of (token, exit layer, confidence)."""
    source = model.encoder(input_ids=input_ids).last_hidden_state
    stack, num_layers = model.decoder, model.num_exits
    given_states = {layer: torch.zeros(1, 0, model.config.d_model) for layer in range(1, num_layers + 1)}
    token, result = torch.tensor([[0]]), []
    for position in range(max_new_tokens):
        static_layer = policy.static_layer
        if isinstance(static_layer, torch.Tensor):
            static_layer = static_layer[min(position, len(static_layer) - 1)]
        state, exit_layer, confidence = stack.embed_tokens(token), None, float("nan")
        proposed = None  # the tokens that deeper layers choose from, with top-k propagation
        for layer in range(1, num_layers + 1):
            given_states[layer] = torch.cat([given_states[layer], state], dim=1)
            if exit_layer is not None:
                continue  # the exit state is what a skipped layer is given
            state = run_layer_over_all(model, layer, given_states[layer], source)
            if layer in (static_layer, num_layers):
                exit_layer = layer
            elif policy.measure and max(policy.min_layer, 1) <= layer:
                logits = listed_logits(model, policy, exit_logits(model, state, proposed))
                if policy.top_k is not None and proposed is None:
                    proposed = sorted(logits, key=logits.get)[-policy.top_k :]
                seen = confidence_from_lists(
                    model, policy.measure, layer, given_states, state, source, list(logits.values())
                )
                threshold = policy.threshold
                if policy.position_temperature is not None:
                    decay = math.exp(-policy.position_temperature * position / max_new_tokens)
                    threshold *= 0.9 + 0.1 * decay
                if seen > threshold:
                    exit_layer, confidence = layer, seen
                    proposed = proposed if layer > max(policy.min_layer, 1) else None
        logits = exit_logits(model, state, proposed)
        if exit_layer < num_layers or policy.shortlist_at_full_depth:
            logits = listed_logits(model, policy, logits)
        chosen = max(logits, key=logits.get)
        result.append((chosen, exit_layer, confidence))
        if chosen == 1:
            break
        token = torch.tensor([[chosen]])
    return result


def exit_logits(model, state, tokens) -> dict[int, float]:
    """Logits of an exit by token, of all tokens or of those given."""
    logits = model.exit_logits(state)[0, 0].tolist()
    return {token: logits[token] for token in tokens or range(len(logits))}


def listed_logits(model, policy: ExitPolicy, logits: dict[int, float]) -> dict[int, float]:
    """The same, nearly −∞ for tokens that are not among the first of the model's ranking."""
    if policy.shortlist is None:
        return logits
    listed = set(model.token_ranking.tolist()[: policy.shortlist])
    return {token: logit if token in listed else -1e30 for token, logit in logits.items()}


def confidence_from_lists(model, measure, layer, given_states, state, source, logits) -> float:
    """The measure's definition after a layer, from the states that all layers were given and its output."""
    head = final = None
    if measure in HEADS:
        outputs = torch.cat([given_states[layer + 1], state], dim=1)  # exit states of tokens that left before
        head = model.exit_heads[measure](layer, outputs)[0, -1].item()
    if measure == "oracle":
        deeper_state = state
        for deeper in range(layer + 1, model.num_exits + 1):
            states = torch.cat([given_states[deeper], deeper_state], dim=1)
            deeper_state = run_layer_over_all(model, deeper, states, source)
        final = model.exit_logits(deeper_state).argmax(-1).item()
    states = (each[0, 0].tolist() for each in (state, given_states[layer][:, -1:]))
    return DEFINITIONS["vanilla_classifier" if measure in HEADS else measure](*states, logits, head, final)


def run_layer_over_all(model, layer, states, source):
    """A decoder layer over the states of all positions [1, n, d_model] → its last output [1, 1, d_model]."""
    stack, length = model.decoder, states.shape[1]
    masks = {"config": stack.config, "inputs_embeds": states, "attention_mask": None}
    bias = {"position_bias": stack.block[0].layer[0].SelfAttention.compute_bias(length, length)}
    output = stack.block[layer - 1](
        states,
        attention_mask=create_causal_mask(**masks, past_key_values=None),
        encoder_hidden_states=source,
        encoder_attention_mask=create_bidirectional_mask(**masks, encoder_hidden_states=source),
        **({} if model.config.model_type == "umt5" else bias),  # UMT5's layers have their own
    )
    return (output if isinstance(output, torch.Tensor) else output[0])[:, -1:]


@given(
    family=st.sampled_from(list(FAMILIES)), policy=policies, length=st.integers(1, 9), seed=st.integers(0, 99)
)
def test_the_reference_equals_decoding_without_a_cache(family, policy, length, seed):
    tokens = torch.randint(2, 97, (1, length), generator=torch.Generator().manual_seed(seed))
    expected = decode_without_cache(MODELS[family], tokens, policy, max_new_tokens=10)
    decoded = MODELS[family].generate(
        input_ids=tokens,
        max_new_tokens=10,
        exit_policy=policy,
        custom_generate=reference_generate,
        return_dict_in_generate=True,
    )
    assert decoded.sequences[0, 1:].tolist() == [token for token, _, _ in expected]
    assert decoded.exit_layers[0].tolist() == [layer for _, layer, _ in expected]
    torch.testing.assert_close(
        decoded.confidences[0],
        torch.tensor([c for _, _, c in expected]),
        atol=TOLERANCES[family],
        rtol=0,
        equal_nan=True,
    )
