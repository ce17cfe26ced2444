"""Decoding with a threshold that adapts: what is learned is what the model says, in the prompts' order."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from early_exit import ExitPolicy
from early_exit.adaptive import AdaptiveThreshold, fit_mixture
from early_exit.linear import has_native
from early_exit.models.adaptive_stream import decode_adaptive
from early_exit.models.sources import Source
from early_exit.models.stream import decode_prompts
from tests.tiny import MODELS, source_batch, tiny_model

POLICY = ExitPolicy(
    measure="softmax", threshold=1.0, min_layer=2, max_layer=2, verify="parallel", max_draft=99
)
OPTIONS = {"max_length": 9, "num_beams": 1}


def sources(count: int) -> list[Source]:
    batch = source_batch(count, 8)
    return [Source.of(*row) for row in zip(batch["input_ids"], batch["attention_mask"], strict=True)]


def decoded(count: int, rows: int, adaptive: AdaptiveThreshold, policy=POLICY, model=MODELS["t5"]):
    with torch.no_grad():
        return decode_adaptive(model, policy, None, sources(count), rows, OPTIONS, adaptive)


def adapted_model():
    model = tiny_model()
    for parameter in model.add_exit_adapters().parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    return model


@torch.no_grad()
def pairs_by_transformers(model, texts, prompts) -> tuple[list[float], list[bool]]:
    """Softmax response and agreement of the second layer, from the model's own forward over whole texts."""
    confidences, agrees = [], []
    for tokens, source in zip(texts, prompts, strict=True):
        before = torch.tensor([[0, *tokens[:-1]]])
        output = model(input_ids=source.tokens[None], decoder_input_ids=before, output_hidden_states=True)
        logits = model.exit_logits(model.adapted(2, output.decoder_hidden_states[2][0]))
        first, second = logits.double().softmax(-1).topk(2).values.T
        confidences += (first - second).tolist()
        agrees += (logits.argmax(-1) == output.logits[0].argmax(-1)).tolist()
    return confidences, agrees


@pytest.mark.parametrize("verify", ["parallel", "exact"])
@pytest.mark.parametrize("adapted", [False, True])
def test_it_learns_what_the_model_says_of_each_token(verify, adapted):
    model = adapted_model() if adapted else MODELS["t5"]
    texts, adaptive = decoded(11, 3, AdaptiveThreshold(0.1), replace(POLICY, verify=verify), model)
    assert [row.prompt for row in texts.rows] == list(range(11))
    confidences, agrees = pairs_by_transformers(model, [row.tokens for row in texts.rows], sources(11))
    np.testing.assert_allclose(adaptive.confidences, confidences, atol=1e-5)
    assert adaptive.agrees.tolist() == agrees
    assert adaptive.prompts == 11
    assert adaptive.threshold == fit_mixture(adaptive.confidences, adaptive.agrees).threshold()


def test_texts_follow_the_threshold_and_not_the_batch():
    one, alone = decoded(19, 1, AdaptiveThreshold(0.05))
    eight, together = decoded(19, 8, AdaptiveThreshold(0.05))
    assert [row.tokens for row in one.rows] == [row.tokens for row in eight.rows]
    near = 0 if has_native("cpu") else 1e-5  # torch's products are rounded by the number of rows
    learned = together.to_dict()
    assert learned == {name: pytest.approx(value, rel=near, abs=0) for name, value in alone.to_dict().items()}
    # The first eight have the first threshold, the next ones what was learned from these.
    for first, last, threshold in (
        (0, 8, 0.05),
        (8, 16, decoded(8, 4, AdaptiveThreshold(0.05))[1].threshold),
    ):
        policy = replace(POLICY, threshold=threshold)
        with torch.no_grad():
            plain = decode_prompts(MODELS["t5"], policy, None, sources(19)[first:last], 4, OPTIONS)
        assert [row.tokens for row in plain.rows] == [row.tokens for row in one.rows[first:last]]


def test_a_frozen_threshold_stays():
    learned = decoded(5, 4, AdaptiveThreshold(0.05, freeze_after=5))[1]
    texts, after = decoded(12, 4, learned)
    assert after == learned
    policy = replace(POLICY, threshold=learned.threshold)
    with torch.no_grad():
        plain = decode_prompts(MODELS["t5"], policy, None, sources(12), 4, OPTIONS)
    assert [row.tokens for row in texts.rows] == [row.tokens for row in plain.rows]
    assert [row.layers_run for row in texts.rows] == [row.layers_run for row in plain.rows]


def test_learning_is_counted_and_greedy():
    texts, _ = decoded(4, 4, AdaptiveThreshold(0.05))
    policy = replace(POLICY, threshold=0.05)
    with torch.no_grad():
        plain = decode_prompts(MODELS["t5"], policy, None, sources(4), 4, OPTIONS)
    for row, same in zip(texts.rows, plain.rows, strict=True):
        assert row.layers_run == same.layers_run + 4 * len(row.tokens)
    with pytest.raises(ValueError, match="plain greedy"):
        decode_adaptive(
            MODELS["t5"], POLICY, None, sources(2), 2, {"do_sample": True}, AdaptiveThreshold(0.5)
        )
