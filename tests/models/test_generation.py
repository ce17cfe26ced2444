"""Decoding through `generate`: exits off against transformers' own loop, and what is refused."""

import pytest
import torch

from early_exit import ExitPolicy
from early_exit.models.generation import early_exit_generate, reference_generate
from early_exit.models.loading import load_model
from tests.tiny import FAMILIES, MODELS, source_batch, tiny_model

FULL_DEPTH = ExitPolicy()
LOOPS = {"engine": early_exit_generate, "reference": reference_generate}


@pytest.mark.slow
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


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_beams": 4}, r"does not serve beam search \(num_beams=4\)"),
        ({"output_scores": True, "return_dict_in_generate": True}, "does not serve returning output_scores"),
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
