"""Exit adapters: their training pass against a naive loop, and decoding with them against the reference."""

from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import T5ForConditionalGeneration

from early_exit import ExitPolicy
from early_exit.kernels.torch_kernels import TorchKernels
from early_exit.models.decoding_cost import bytes_per_token
from early_exit.models.engines import forget_engines
from early_exit.models.generation import reference_generate
from early_exit.models.loading import load_model
from early_exit.models.pipeline import backbone_hash
from early_exit.setting import DecodingSetting
from tests.strategies import batch_policies
from tests.tiny import FAMILIES, TOLERANCES, source_batch, tiny_model

LABELS = torch.tensor([[5, 9, 17, 1], [3, 1, -100, -100]])


def adapted_model(family: str = "t5", rank: int | None = None, heads: bool = True):
    """A tiny model with random adapters; with exit heads that were made for it."""
    model = tiny_model(family)
    kept = {name: (made.state_dict(), len(made.heads) == 1) for name, made in model.exit_heads.items()}
    adapters = model.add_exit_adapters(rank)
    generator = torch.Generator().manual_seed(1)
    for parameter in adapters.parameters():
        parameter.data = 0.15 * torch.randn(parameter.shape, generator=generator)
    for name, (state, shared) in kept.items() if heads else ():
        model.add_exit_heads(name, shared=shared).load_state_dict(state)
    return model.eval()


adapted = cache(adapted_model)  # a model of each family, which tests leave as it is


@settings(max_examples=16)
@given(
    family=st.sampled_from(list(FAMILIES)), rows=st.integers(1, 3), seed=st.integers(0, 99), data=st.data()
)
def test_the_engine_equals_the_reference(family, rows, seed, data):
    options = {
        **source_batch(rows, 9, seed),
        "exit_policy": data.draw(batch_policies(rows)),
        "max_new_tokens": 8,
        "return_dict_in_generate": True,
        "eos_token_id": data.draw(st.lists(st.integers(2, 96), min_size=1, max_size=20)),
    }
    model = adapted(family)
    expected = model.generate(**options, custom_generate=reference_generate)
    decoded = model.generate(**options)
    assert torch.equal(decoded.sequences, expected.sequences)
    assert torch.equal(decoded.exit_layers, expected.exit_layers)
    tolerance = 2 * TOLERANCES[family]
    torch.testing.assert_close(
        decoded.confidences, expected.confidences, atol=tolerance, rtol=0, equal_nan=True
    )


@settings(max_examples=12)
@given(
    verify=st.sampled_from(["exact", "parallel", "lenient", "rollback"]),
    threshold=st.floats(0, 0.5),
    measure=st.sampled_from(["softmax", "softmax_max", "hidden_state", "MLP", None]),
    seed=st.integers(0, 99),
    processes=st.booleans(),
)
def test_drafts_equal_the_reference(verify, threshold, measure, seed, processes):
    """Compiled, and where processors want logits, step by step."""
    how = {"static_layer": 2} if measure is None else {"measure": measure, "threshold": threshold}
    policy = ExitPolicy(**how, verify=verify, max_draft=3)
    options = {**source_batch(2, 9, seed), "exit_policy": policy, "max_new_tokens": 8}
    if processes:
        options["no_repeat_ngram_size"] = 2
    expected = adapted("t5").generate(**options, custom_generate=reference_generate)
    assert torch.equal(adapted("t5").generate(**options), expected)


@settings(max_examples=12)
@given(rows=st.integers(1, 3), seed=st.integers(0, 99), data=st.data())
def test_torch_kernels_equal_the_reference(rows, seed, data):
    model = adapted("t5")
    options = {
        **source_batch(rows, 9, seed),
        "exit_policy": data.draw(batch_policies(rows)),
        "max_new_tokens": 8,
        "return_dict_in_generate": True,
    }
    expected = model.generate(**options, custom_generate=reference_generate)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("early_exit.models.engines.kernels_for", TorchKernels)
        forget_engines(model)
        decoded = model.generate(**options)
    forget_engines(model)
    assert torch.equal(decoded.sequences, expected.sequences)
    assert torch.equal(decoded.exit_layers, expected.exit_layers)


@settings(max_examples=10)
@given(
    measure=st.sampled_from(["softmax", "softmax_max"]), threshold=st.floats(0, 0.5), seed=st.integers(0, 99)
)
@pytest.mark.parametrize("precision", ["bfloat16", "int8", "w8a8", "int4"])
def test_the_compiled_loop_equals_single_steps_in_every_precision(precision, measure, threshold, seed):
    """Processors that change nothing take the same kernels step by step."""
    options = {
        **source_batch(3, 9, seed),
        "exit_policy": ExitPolicy(measure=measure, threshold=threshold),
        "engine_precision": precision,
        "max_new_tokens": 8,
        "return_dict_in_generate": True,
    }
    loop = adapted("t5").generate(**options)
    steps = adapted("t5").generate(**options, bad_words_ids=[[96, 95, 94, 93]])
    assert torch.equal(loop.sequences, steps.sequences)
    assert torch.equal(loop.exit_layers, steps.exit_layers)


@settings(max_examples=10)
@given(threshold=st.floats(0, 0.5), seed=st.integers(0, 99))
def test_a_screened_head_changes_no_token_and_no_exit(threshold, seed):
    options = {**source_batch(3, 9, seed), "max_new_tokens": 10, "return_dict_in_generate": True}
    plain, screened = (
        adapted("t5").generate(
            **options, exit_policy=ExitPolicy(measure="softmax", threshold=threshold, screen=screen)
        )
        for screen in (False, True)
    )
    assert torch.equal(screened.sequences, plain.sequences)
    assert torch.equal(screened.exit_layers, plain.exit_layers)


def test_adapters_decide_in_these_tests():
    """Guards those above: random adapters must change tokens, and leave full depth as it is."""
    with_adapters, without = adapted("t5"), tiny_model()
    for layer in (1, 2, 3, 4):
        options = {**source_batch(3, 9), "exit_policy": ExitPolicy(static_layer=layer), "max_new_tokens": 10}
        same = torch.equal(with_adapters.generate(**options), without.generate(**options))
        assert same == (layer == 4)


@pytest.mark.parametrize("rank", [None, 3])
def test_new_adapters_change_nothing(rank):
    model, inputs = tiny_model(), source_batch(3, 9)
    options = {"exit_policy": ExitPolicy(measure="softmax", threshold=0.2), "return_dict_in_generate": True}
    before = model.generate(**inputs, **options, max_new_tokens=10)
    model.add_exit_adapters(rank)
    after = model.generate(**inputs, **options, max_new_tokens=10)
    assert torch.equal(after.sequences, before.sequences)
    assert torch.equal(after.exit_layers, before.exit_layers)
    assert torch.equal(after.confidences.nan_to_num(), before.confidences.nan_to_num())


@pytest.mark.parametrize("family", ["t5", "t5 v1.1"])
@pytest.mark.parametrize("rank", [None, 3])
def test_the_gradient_is_that_of_a_naive_loop(family, rank):
    """Token by token in float64, full depth's distribution a constant."""
    model = adapted_model(family, rank, heads=False).double()
    inputs = source_batch(2, 6)
    model.requires_grad_(False)
    model.exit_adapters.requires_grad_(True)
    result = model(**inputs, labels=LABELS, exit_adapter_loss=True)
    result.loss.backward()
    gradients = {name: weight.grad.clone() for name, weight in model.exit_adapters.named_parameters()}
    model.exit_adapters.zero_grad()
    stock = T5ForConditionalGeneration.forward(model, **inputs, labels=LABELS, output_hidden_states=True)
    total, tokens = 0.0, 0
    matrices = [
        torch.eye(32).double()
        + (
            model.exit_adapters.changes[exit]
            if rank is None
            else model.exit_adapters.outward[exit] @ model.exit_adapters.inward[exit]
        )
        for exit in range(3)
    ]
    for row, column in (LABELS != -100).nonzero().tolist():
        full = stock.logits[row, column].softmax(-1).detach()
        tokens += 1
        for exit, matrix in enumerate(matrices):
            state = matrix @ stock.decoder_hidden_states[exit + 1][row, column]
            normed = state / (state.square().mean() + model.config.layer_norm_epsilon).sqrt()
            read = normed * model.decoder.final_layer_norm.weight * model.head_scale
            own = (model.lm_head.weight @ read).log_softmax(-1)
            total = total + (full * (full.log() - own)).sum() / 3
    expected = total / tokens
    torch.testing.assert_close(result.loss, expected)
    expected.backward()
    for name, weight in model.exit_adapters.named_parameters():
        torch.testing.assert_close(gradients[name], weight.grad, msg=name)


def test_the_checkpoint_is_a_plain_t5_and_keeps_the_adapters(tmp_path):
    model, inputs = adapted_model(rank=2), source_batch(2, 6)
    model.save_pretrained(tmp_path)
    plain, again = T5ForConditionalGeneration.from_pretrained(tmp_path).eval(), load_model(tmp_path).eval()
    with torch.no_grad():
        logits = [each(**inputs, labels=LABELS).logits for each in (tiny_model(), plain, again)]
    assert all(torch.equal(each, logits[0]) for each in logits)
    assert torch.equal(again.exit_adapters.matrices(), model.exit_adapters.matrices())
    options = {**inputs, "exit_policy": ExitPolicy(measure="MLP", threshold=0.3), "max_new_tokens": 10}
    assert torch.equal(again.generate(**options), model.generate(**options))


def test_adapters_count_in_the_weights_that_a_guarantee_is_tied_to():
    model, plain = adapted_model(), backbone_hash(tiny_model())
    first = backbone_hash(model)
    model.exit_adapters.changes.data[1] += 1
    assert len({plain, first, backbone_hash(model)}) == 3


def test_adapters_of_other_weights_are_refused():
    model = adapted_model()
    model.decoder.block[0].layer[-1].DenseReluDense.wi.weight.data += 0.1
    for loop in (None, reference_generate):
        with pytest.raises(ValueError, match="exit adapters were trained on a model with other weights"):
            model.generate(**source_batch(1, 4), exit_policy=ExitPolicy(), custom_generate=loop)


def test_heads_that_were_trained_before_the_adapters_are_refused():
    model = tiny_model()
    model.check_exit_heads("MLP")
    model.add_exit_adapters()
    with pytest.raises(ValueError, match="exit head 'MLP' was trained on a model with other weights"):
        model.check_exit_heads("MLP")


@pytest.mark.parametrize("rank", [0, 33])
def test_a_rank_outside_of_the_model_is_refused(rank):
    with pytest.raises(ValueError, match=f"rank {rank} of exit adapters is outside 1 to 32"):
        tiny_model().add_exit_adapters(rank)


def test_the_losses_at_the_exits_refuse_a_model_with_adapters():
    with pytest.raises(ValueError, match="without exit adapters"):
        adapted_model()(**source_batch(2, 6), labels=LABELS, exit_loss="weighted_ce")


def test_an_adapter_counts_where_an_exit_below_full_depth_reads_the_head():
    """Of 32 · 32 weights in 4 bytes; of 2.5 layers a token at most half go to layer 4."""
    with_adapters, without, layers = adapted("t5"), tiny_model(), np.array([2.5])
    matrix = 4 * 32 * 32
    for policy, times in (
        (ExitPolicy(measure="softmax", threshold=0.5), 2.5 - 0.5),
        (ExitPolicy(measure="hidden_state", threshold=0.5), 1 - 0.5),
    ):
        setting = DecodingSetting(policy)
        more = bytes_per_token(with_adapters, setting, layers) - bytes_per_token(without, setting, layers)
        assert more.item() == pytest.approx(times * matrix)
    full = DecodingSetting(ExitPolicy())
    assert bytes_per_token(with_adapters, full, np.array([4.0])) == bytes_per_token(
        without, full, np.array([4.0])
    )
