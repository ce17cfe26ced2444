"""The wide model of the benchmarks computes what the small one does."""

import pytest
import torch
from transformers import T5Config

from benchmarks.widen import widened
from early_exit import ExitPolicy
from early_exit.models.t5 import EarlyExitT5
from tests.tiny import source_batch

HEADS = ("vanilla_classifier", "MLP", "transformer_MLP_64")
POLICIES = [ExitPolicy(static_layer=2), *(ExitPolicy(measure=name, threshold=0.5) for name in HEADS)] + [
    ExitPolicy(measure="softmax", threshold=threshold, **more)
    for threshold in (0.05, 0.2)
    for more in ({}, {"top_k": 20}, {"screen": True}, {"shortlist": 20})
]


@pytest.fixture(scope="module", params=[2, 3])
def models(request):
    torch.manual_seed(0)
    config = T5Config(
        vocab_size=97, d_model=16, d_kv=8, d_ff=24, num_layers=2, num_decoder_layers=4, num_heads=2,
        decoder_start_token_id=0, dropout_rate=0.0, initializer_factor=1.5,
    )  # fmt: skip
    small = EarlyExitT5(config).eval()
    small.rank_tokens([[40, 41, 41, 90]])
    small.shared.weight.data[:, 0] += 5  # a direction that all states share, as trained ones do
    for block in small.decoder.block:
        block.layer[-1].DenseReluDense.wo.weight.data[0].abs_()
    for name in HEADS:
        heads = small.add_exit_heads(name, shared=name == "MLP")
        heads.agreed += torch.tensor([1, 2, 3])
        heads.seen += 4
    with torch.no_grad():
        outputs = small(
            **source_batch(16, 9) | {"labels": torch.randint(2, 97, (16, 12))}, output_hidden_states=True
        )
        states = torch.cat(
            [small.decoder.final_layer_norm(each) for each in outputs.decoder_hidden_states[1:-1]]
        )
    states = small.head_input(states.flatten(0, 1))
    return small, widened(small, states, request.param, d_ff=100, encoder_layers=3, vocabulary=200)


@pytest.mark.parametrize("policy", POLICIES, ids=str)
def test_tokens_exits_and_confidences_are_the_small_models(models, policy):
    inputs = source_batch(6, 9, seed=3)
    small, wide = (
        model.generate(**inputs, max_new_tokens=12, exit_policy=policy, return_dict_in_generate=True)
        for model in models
    )
    assert torch.equal(small.sequences, wide.sequences)
    assert torch.equal(small.exit_layers, wide.exit_layers)
    if not policy.screen:
        torch.testing.assert_close(small.confidences, wide.confidences, atol=1e-4, rtol=0, equal_nan=True)


def test_the_filler_tokens_stay_below(models):
    inputs, wide = source_batch(6, 9, seed=4), models[1]
    with torch.no_grad():
        logits = wide(**inputs, decoder_input_ids=torch.zeros(6, 1, dtype=torch.long)).logits
    assert logits.shape[-1] == 200
    assert logits[..., 97:].max() < logits[..., :97].amax(-1).min() - 8
