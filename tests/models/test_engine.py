"""The engine against the reference, and rows of a batch against the same rows alone."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import T5Config

from early_exit import ExitPolicy, Prompt
from early_exit.linear import has_native
from early_exit.models.engines import engine_for
from early_exit.models.generation import reference_generate
from early_exit.models.t5 import EarlyExitT5
from tests.strategies import batch_policies
from tests.tiny import FAMILIES, MODELS, TOLERANCES, source_batch, tiny_model

FULL_DEPTH = ExitPolicy()


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


@given(threshold=st.floats(0.01, 0.6), seed=st.integers(0, 99), temperature=st.sampled_from([None, 4.0]))
def test_the_text_is_the_same_between_the_kept_and_the_left_confidence(threshold, seed, temperature):
    """The bookkeeping that calibration relies on, with strict `>`."""

    def generate(threshold):
        policy = ExitPolicy(measure="softmax", threshold=threshold, position_temperature=temperature)
        return MODELS["t5"].generate(
            **source_batch(1, 9, seed), max_new_tokens=10, exit_policy=policy, return_dict_in_generate=True
        )

    decoded = generate(threshold)
    kept, left = decoded.max_stay_confidence.item(), decoded.min_exit_confidence.item()
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
    row_sources = [0, 2, 0, 1, 2, 0]
    with torch.no_grad():
        encoded = model.encoder(**inputs).last_hidden_state
    sources = [states[mask == 1] for states, mask in zip(encoded, inputs["attention_mask"], strict=True)]
    tokens = [[] for _ in row_sources]

    def choose(numbers, lengths, scores):
        chosen = scores.tokens()
        for number, token in zip(numbers, chosen.tolist(), strict=True):
            tokens[number].append(token)
        return chosen, chosen == 1

    policy = ExitPolicy(measure="softmax", threshold=thresholds)
    prompts = [Prompt(sources[number], np.zeros(1, dtype=np.int64)) for number in row_sources]
    decoded = engine_for(model, policy, "float32").engine.decode_batch(prompts, policy, choose, 10)
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


@pytest.mark.slow
def test_a_longer_text_than_before_gets_a_longer_position_bias():
    model, inputs = tiny_model(), source_batch(2, 9)
    for length in (3, 150):
        expected = model.generate(**inputs, max_new_tokens=length, min_new_tokens=length)
        decoded = model.generate(
            **inputs, max_new_tokens=length, min_new_tokens=length, exit_policy=FULL_DEPTH
        )
        assert torch.equal(decoded, expected)


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


@given(
    family=st.sampled_from(list(FAMILIES)), rows=st.integers(1, 9), seed=st.integers(0, 99), data=st.data()
)
def test_a_screened_head_changes_no_token_and_no_exit(family, rows, seed, data):
    policy = data.draw(
        batch_policies(rows).filter(lambda policy: policy.top_k is None and policy.shortlist is None)
    )
    options = {**source_batch(rows, 9, seed), "max_new_tokens": 10, "return_dict_in_generate": True}
    if data.draw(st.booleans()):
        options["no_repeat_ngram_size"] = 2  # wants all logits
    plain = MODELS[family].generate(**options, exit_policy=policy)
    screened = MODELS[family].generate(**options, exit_policy=replace(policy, screen=True))
    assert torch.equal(screened.sequences, plain.sequences)
    assert torch.equal(screened.exit_layers, plain.exit_layers)
    assert not (screened.confidences > plain.confidences + 1e-4).any()
    assert (screened.max_stay_confidence >= plain.max_stay_confidence - 1e-4).all()
    assert (screened.min_exit_confidence <= plain.min_exit_confidence + 1e-4).all()
    assert (screened.screen is not None) == has_native("cpu")  # torch's kernels have no screen


@given(rows=st.integers(1, 9), seed=st.integers(0, 99), data=st.data())
def test_all_tokens_propagated_is_plain_softmax_response(rows, seed, data):
    thresholds = data.draw(st.lists(st.floats(0, 0.5, width=32), min_size=rows, max_size=rows))
    policy = ExitPolicy(measure="softmax", threshold=torch.tensor(thresholds))
    options = {**source_batch(rows, 9, seed), "max_new_tokens": 10, "return_dict_in_generate": True}
    plain = MODELS["t5"].generate(**options, exit_policy=policy)
    everything = MODELS["t5"].generate(**options, exit_policy=replace(policy, top_k=97))
    assert torch.equal(everything.sequences, plain.sequences)
    assert torch.equal(everything.exit_layers, plain.exit_layers)
    kept, total = everything.kept()
    assert kept == total == (plain.exit_layers > 0).sum()


def test_kept_counts_the_tokens_that_the_whole_head_would_choose():
    """Against the same exits and tokens, replayed with the whole head."""
    model, inputs = MODELS["t5"], source_batch(1, 9, seed=0)
    policy = ExitPolicy(measure="softmax", threshold=0.3, top_k=3)
    decoded = model.generate(**inputs, max_new_tokens=12, exit_policy=policy, return_dict_in_generate=True)
    layers = decoded.exit_layers[0]
    replayed = decoded.sequences[:, : 1 + len(layers)]
    expected = 0
    for step, layer in enumerate(layers.tolist()):
        schedule = torch.cat([layers[:step], torch.tensor([layer])])
        again = model.generate(
            **inputs,
            decoder_input_ids=replayed[:, :1],
            max_new_tokens=step + 1,
            exit_policy=ExitPolicy(static_layer=schedule),
            return_dict_in_generate=True,
            logits_processor=[_Forced(replayed[0, : step + 1])],
        )
        expected += int(again.sequences[0, step + 1] == replayed[0, step + 1])
    assert decoded.kept() == (expected, len(layers))
    assert 0 < expected < len(layers)


class _Forced:
    """Makes the tokens of a text, as far as it goes."""

    def __init__(self, text):
        self._text = text

    def __call__(self, input_ids, scores):
        place = input_ids.shape[1]
        if place >= len(self._text):
            return scores
        forced = torch.full_like(scores, -torch.inf)
        forced[:, self._text[place]] = 0
        return forced


def test_top_k_with_rows_that_leave_at_different_layers_gathers_what_is_left():
    """A wide vocabulary, where the rows of the head are gathered."""
    config = T5Config(**MODELS["t5"].config.to_diff_dict() | {"vocab_size": 4000})
    torch.manual_seed(0)
    model = EarlyExitT5(config).eval()
    for parameter in model.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    policy = ExitPolicy(measure="softmax", threshold=torch.tensor([0.02, 0.04, 0.06, 0.3]), top_k=20)
    options = {**source_batch(4, 9), "max_new_tokens": 10, "return_dict_in_generate": True}
    expected = model.generate(**options, exit_policy=policy, custom_generate=reference_generate)
    for precision in ("float32", "int8"):
        decoded = model.generate(**options, exit_policy=policy, engine_precision=precision)
        if precision == "float32":
            assert torch.equal(decoded.sequences, expected.sequences)
            assert torch.equal(decoded.exit_layers, expected.exit_layers)
    assert len(set(expected.exit_layers.flatten().tolist())) > 2
