"""Decoding through `generate`: exits off against transformers' own loop; exits on, the reference against
a loop without any cache, and the engine against the reference."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers.masking_utils import create_bidirectional_mask, create_causal_mask

from early_exit import ExitPolicy, decode
from models.adapter import decoder_weights
from models.generation import early_exit_generate, reference_generate
from models.loading import load_model
from tests.tiny import FAMILIES, source_batch, tiny_model

MODELS = {family: tiny_model(family) for family in FAMILIES}
FULL_DEPTH = ExitPolicy()
# Of confidences. Where a family does not scale its logits they are some hundreds here, with an error to match.
TOLERANCES = {family: 1e-5 if family == "t5" else 1e-4 for family in FAMILIES}
LOOPS = {"engine": early_exit_generate, "reference": reference_generate}


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
    inputs = source_batch(rows, longest=9) | options
    expected = MODELS[family].generate(**inputs, max_new_tokens=12)
    for loop in LOOPS.values():
        decoded = MODELS[family].generate(
            **inputs, max_new_tokens=12, exit_policy=FULL_DEPTH, custom_generate=loop
        )
        assert torch.equal(decoded, expected)


@pytest.mark.parametrize(("loop", "rows"), [("reference", 1), ("engine", 1), ("engine", 8)])
def test_sampling_draws_as_generate_does(loop, rows):
    inputs = source_batch(rows, longest=9)
    options = {"do_sample": True, "temperature": 0.8, "top_k": 20, "top_p": 0.95, "max_new_tokens": 12}
    torch.manual_seed(3)
    expected = MODELS["t5"].generate(**inputs, **options)
    torch.manual_seed(3)
    decoded = MODELS["t5"].generate(**inputs, **options, exit_policy=FULL_DEPTH, custom_generate=LOOPS[loop])
    assert torch.equal(decoded, expected)


@pytest.mark.parametrize("loop", LOOPS)
def test_a_decoder_prefix_and_several_sequences_a_source(loop):
    model, options = MODELS["t5"], {"exit_policy": FULL_DEPTH, "custom_generate": LOOPS[loop]}
    inputs = source_batch(2, longest=9) | {"decoder_input_ids": torch.tensor([[0, 12, 40], [0, 33, 2]])}
    expected = model.generate(**inputs, max_new_tokens=6)
    assert torch.equal(model.generate(**inputs, max_new_tokens=6, **options), expected)
    several = model.generate(**inputs, max_new_tokens=6, do_sample=True, num_return_sequences=3, **options)
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
    bias = {"position_bias": stack.block[0].layer[0].SelfAttention.compute_bias(length, length)}
    output = stack.block[layer - 1](
        states,
        attention_mask=create_causal_mask(**masks, past_key_values=None),
        encoder_hidden_states=source,
        encoder_attention_mask=create_bidirectional_mask(**masks, encoder_hidden_states=source),
        **({} if model.config.model_type == "umt5" else bias),  # UMT5's layers have their own
    )
    return (output if isinstance(output, torch.Tensor) else output[0])[:, -1:]


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


@st.composite
def batch_policies(draw, rows: int):
    """A policy for a batch, with a threshold a row where it has any."""
    policy = draw(policies)
    if policy.measure is None:
        return policy
    thresholds = draw(st.lists(st.floats(0, 0.625, width=32), min_size=rows, max_size=rows))
    return replace(policy, threshold=torch.tensor(thresholds))


@given(
    family=st.sampled_from(list(FAMILIES)),
    rows=st.integers(1, 9),
    longest=st.integers(1, 9),
    seed=st.integers(0, 99),
    data=st.data(),
)
def test_the_engine_equals_the_reference(family, rows, longest, seed, data):
    options = {
        **source_batch(rows, longest, seed),
        "exit_policy": data.draw(batch_policies(rows)),
        "max_new_tokens": 10,
        "return_dict_in_generate": True,
        # Rows that end at different steps, though random models rarely end by themselves.
        "eos_token_id": data.draw(st.lists(st.integers(2, 96), min_size=1, max_size=20)),
    }
    expected = MODELS[family].generate(**options, custom_generate=reference_generate)
    decoded = MODELS[family].generate(**options)
    assert torch.equal(decoded.sequences, expected.sequences)
    assert torch.equal(decoded.exit_layers, expected.exit_layers)
    torch.testing.assert_close(
        decoded.confidences,
        expected.confidences,
        atol=TOLERANCES[family],
        rtol=0,
        equal_nan=True,
    )


@given(threshold=st.floats(0.01, 0.6), seed=st.integers(0, 99), temperature=st.sampled_from([None, 4.0]))
def test_the_text_is_the_same_between_the_kept_and_the_left_confidence(threshold, seed, temperature):
    """The bookkeeping that calibration relies on, with strict `>`."""

    def generate(threshold):
        policy = ExitPolicy(measure="softmax", threshold=threshold, position_temperature=temperature)
        return MODELS["t5"].generate(
            **source_batch(1, 9, seed), max_new_tokens=10, exit_policy=policy, return_dict_in_generate=True
        )

    decoded = generate(threshold)
    kept, left = decoded.highest_kept.item(), decoded.lowest_left.item()
    assert kept <= threshold * (1 + 1e-6)
    assert left >= threshold * (1 - 1e-6)
    for other in (max(kept, 0) * (1 + 1e-5) + 1e-7, min(left, 1) * (1 - 1e-5)):
        if kept < other < left:
            again = generate(other)
            assert torch.equal(again.sequences, decoded.sequences)
            assert torch.equal(again.exit_layers, decoded.exit_layers)


def test_rows_of_one_source_share_it_and_decode_as_they_do_alone():
    model, thresholds = MODELS["t5"], torch.tensor([0.0, 0.1, 0.3, 1.0, 0.05, 0.2])
    inputs = source_batch(3, longest=9)
    row_sources = np.array([0, 2, 0, 1, 2, 0])
    with torch.no_grad():
        source = model.encoder(**inputs).last_hidden_state
    tokens = [[] for _ in row_sources]

    def next_tokens(active, logits):
        chosen = logits.argmax(-1)
        for row, token in zip(active, chosen.tolist(), strict=True):
            tokens[row].append(token)
        return chosen, (chosen == 1).numpy()

    decoded = decode(
        decoder_weights(model, positions=16),
        source,
        inputs["attention_mask"],
        torch.zeros(len(row_sources), 1, dtype=torch.long),
        ExitPolicy(measure="softmax", threshold=thresholds),
        next_tokens,
        max_new_tokens=10,
        row_sources=row_sources,
    )
    for row, threshold in enumerate(thresholds.tolist()):
        alone = model.generate(
            input_ids=inputs["input_ids"][row_sources[row], None],
            attention_mask=inputs["attention_mask"][row_sources[row], None],
            max_new_tokens=10,
            exit_policy=ExitPolicy(measure="softmax", threshold=threshold),
            return_dict_in_generate=True,
        )
        steps = alone.exit_layers.shape[1]
        assert tokens[row] == alone.sequences[0, 1:].tolist()
        assert torch.equal(decoded.exit_layers[row, :steps], alone.exit_layers[0])


@pytest.mark.parametrize("change", ["in place", "optimizer", "fused optimizer"])
def test_the_engine_sees_that_weights_have_changed(change):
    model, inputs = tiny_model(), source_batch(2, 9)
    before = model.generate(**inputs, max_new_tokens=8, exit_policy=FULL_DEPTH)
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    if change == "in place":
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.3 * parameter.grad)
    else:
        torch.optim.AdamW(model.parameters(), lr=0.3, fused=change.startswith("fused")).step()
    after = model.generate(**inputs, max_new_tokens=8, exit_policy=FULL_DEPTH)
    assert torch.equal(after, model.generate(**inputs, max_new_tokens=8))
    assert not torch.equal(after, before)


def test_a_longer_text_than_before_gets_a_longer_position_bias():
    model, inputs = tiny_model(), source_batch(2, 9)
    for length in (3, 150):
        expected = model.generate(**inputs, max_new_tokens=length, min_new_tokens=length)
        decoded = model.generate(
            **inputs, max_new_tokens=length, min_new_tokens=length, exit_policy=FULL_DEPTH
        )
        assert torch.equal(decoded, expected)


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
@pytest.mark.parametrize("loop", LOOPS)
def test_what_cannot_be_decoded_is_refused(loop, options, message):
    settings = {**source_batch(2, 5), "max_new_tokens": 4, "exit_policy": FULL_DEPTH} | options
    with pytest.raises(ValueError, match=message):
        MODELS["t5"].generate(**settings, custom_generate=LOOPS[loop])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_checkpoints_decode(dtype, tmp_path):
    """transformers keeps some weights of such a model in float32. Exits are taken as in float32, but for a
    few tokens that rounding turns."""
    tiny_model().to(dtype).save_pretrained(tmp_path)
    model, inputs = load_model(str(tmp_path)).eval(), source_batch(4, 9)
    policy = ExitPolicy(measure="softmax", threshold=0.3)
    options = {"max_new_tokens": 8, "exit_policy": policy, "return_dict_in_generate": True}
    decoded = model.generate(**inputs, **options)
    exact = model.float().generate(**inputs, **options)
    assert decoded.exit_layers.shape == exact.exit_layers.shape
    assert (decoded.sequences == exact.sequences).float().mean() > 0.5


def test_streaming_is_refused():
    with pytest.raises(ValueError, match="does not stream"):
        MODELS["t5"].generate(**source_batch(1, 5), exit_policy=FULL_DEPTH, streamer=object())


@pytest.mark.parametrize("loop", LOOPS)
def test_nan_weights_are_reported(loop):
    model = tiny_model()
    model.decoder.block[1].layer[-1].DenseReluDense.wo.weight.data.fill_(float("nan"))
    with pytest.raises(ValueError, match="NaN"):
        model.generate(
            **source_batch(1, 5),
            max_new_tokens=4,
            exit_policy=ExitPolicy(measure="softmax", threshold=0.99),
            custom_generate=LOOPS[loop],
        )
