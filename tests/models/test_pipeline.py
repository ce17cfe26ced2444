"""What a fingerprint sees: all that can change a token, and nothing that cannot."""

import json
import warnings
from contextlib import contextmanager

import pytest
import torch
from transformers import ByT5Tokenizer

from early_exit import DecodingSetting, ExitPolicy
from early_exit.linear import has_native
from early_exit.models.calibrated import Certified
from early_exit.models.effective_generation import effective_generation
from early_exit.models.pipeline import (
    PIPELINE_VERSION,
    model_pipeline,
    numerics,
    shared_prefix,
    tokenizer_hash,
)
from tests.tiny import source_batch, tiny_model

SETTING = DecodingSetting(ExitPolicy(measure="MLP", threshold=0.5), "float32")
INPUTS = source_batch(3, 9)


def with_number(model, name: str, place: int):
    """The model, with one number of a tensor changed."""
    with torch.no_grad():
        tensor = (
            model.get_parameter(name) if name in dict(model.named_parameters()) else model.get_buffer(name)
        )
        tensor.view(-1)[place] += 1
    return model


CHANGES = {
    "the first weight": lambda model: with_number(model, "shared.weight", 0),
    "the last weight": lambda model: with_number(model, "shared.weight", -1),
    "a weight far inside": lambda model: with_number(
        model, "decoder.block.2.layer.2.DenseReluDense.wi.weight", 700
    ),
    "the exit head": lambda model: with_number(model, "exit_heads.MLP.heads.0.hidden.weight", 300),
    "what an exit head counted": lambda model: with_number(model, "exit_heads.MLP.agreed", 1),
    "the loaded type": lambda model: model.to(torch.bfloat16).float(),
    "a type": lambda model: model.to(torch.bfloat16),
    "the norms' epsilon": lambda model: setattr(model.config, "layer_norm_epsilon", 1e-5) or model,
    "the head's scale": lambda model: setattr(model.config, "scale_decoder_outputs", False) or model,
}


@pytest.mark.slow
@pytest.mark.parametrize("change", CHANGES)
def test_every_byte_that_decoding_uses_is_seen(change):
    before = model_pipeline(tiny_model(), SETTING)
    assert model_pipeline(tiny_model(), SETTING) == before
    assert model_pipeline(CHANGES[change](tiny_model()), SETTING) != before


def test_what_does_not_decode_is_not_seen():
    before, model = model_pipeline(tiny_model(), SETTING), tiny_model()
    with_number(model, "exit_heads.vanilla_classifier.heads.0.output.weight", 0)  # of another measure
    model.config.exit_calibration = {"anything": 1}
    model.config.dropout_rate = 0.3
    assert model_pipeline(model, SETTING) == before


@contextmanager
def rounded(backend, precision):
    """One of torch's backends rounds products so; no attribute that `monkeypatch` could set back."""
    products = getattr(torch.backends, backend).matmul
    before, products.fp32_precision = products.fp32_precision, precision
    yield
    products.fp32_precision = before


def test_numerics_name_what_is_computed(monkeypatch):
    cpu = torch.device("cpu")
    assert not has_native(cpu) or numerics("int8", cpu) != numerics("float32", cpu)
    monkeypatch.setattr("early_exit.models.pipeline.has_native", lambda device: False)
    monkeypatch.setattr("early_exit.linear.has_native", lambda device: False)
    with pytest.warns(UserWarning, match="no int8 kernels"):
        assert numerics("int8", cpu)["precision"] == "float32"
    before = numerics("float32", cpu)
    with rounded("mkldnn", "bf16"):
        assert numerics("float32", cpu) != before


@pytest.mark.parametrize(
    ("backend", "device", "precision", "word"),
    [
        ("cuda", "cuda", "none", "highest"),
        ("cuda", "cuda", "ieee", "highest"),
        ("cuda", "cuda", "tf32", "high"),  # as --tf32 sets it
        ("mkldnn", "cpu", "none", "highest"),
        ("mkldnn", "cpu", "tf32", "high"),
        ("mkldnn", "cpu", "bf16", "medium"),
        ("cuda", "cpu", "tf32", "highest"),  # of another device
    ],
)
def test_rounded_products_of_one_backend_are_named(monkeypatch, backend, device, precision, word):
    monkeypatch.setattr("early_exit.models.pipeline.has_native", lambda device: False)
    with rounded(backend, precision):
        assert numerics("float32", torch.device(device))["float32 products"] == word


@pytest.mark.parametrize("word", ["highest", "high", "medium"])
def test_rounded_products_are_torchs_own_words(monkeypatch, word):
    monkeypatch.setattr("early_exit.models.pipeline.has_native", lambda device: False)
    torch.set_float32_matmul_precision(word)
    try:
        assert numerics("float32", torch.device("cpu"))["float32 products"] == word
    finally:
        torch.set_float32_matmul_precision("highest")


def test_tokenizers_are_known_by_all_they_do():
    plain = ByT5Tokenizer()
    assert tokenizer_hash(plain) == tokenizer_hash(ByT5Tokenizer())
    assert tokenizer_hash(ByT5Tokenizer(eos_token="<x>")) != tokenizer_hash(plain)


def test_the_shared_prefix():
    assert shared_prefix([[3, 4, 5, 6], [3, 4, 7]], 9) == [3, 4]
    assert shared_prefix([[3, 4], [3, 4]], 1) == [3]
    assert shared_prefix([[3, 4], [3]], 5) == [3]
    assert shared_prefix([], 5) == []


def certified(model, **more):
    pipeline = (
        model_pipeline(model, SETTING) | {"source tokens": 9, "prefix tokens": [], "prefix": "''"} | more
    )
    effective = effective_generation(model, {"max_length": 8})
    value = Certified(
        SETTING, pipeline["weights"], 8, effective, 0.1, 0.05, "textual rouge", 9, "f", pipeline
    )
    model.config.exit_calibration = json.loads(json.dumps(value.to_dict()))
    return model


def warned(model, inputs=INPUTS):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.generate(**inputs)
    return "\n".join(str(each.message) for each in caught if "calibrated" in str(each.message))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("a weight far inside", "the weights are not those"),
        ("the exit head", "the exit head is not the one"),
        ("the head's scale", "configuration is not the one"),
        ("the loaded type", "the weights are not those"),
    ],
)
def test_generate_names_what_differs(change, message):
    model = certified(tiny_model())
    assert warned(model) == ""
    assert message in warned(CHANGES[change](model))


def test_generate_compares_version_numerics_and_prompts():
    model = tiny_model()
    version = warned(certified(model, version=PIPELINE_VERSION - 1))
    assert f"version {PIPELINE_VERSION} instead of {PIPELINE_VERSION - 1}" in version
    numbers = numerics("float32", torch.device("cpu"))
    assert "device cpu instead of cuda" in warned(certified(model, numerics=numbers | {"device": "cuda"}))
    assert "a prompt of 9 tokens instead of at most 8" in warned(certified(model, **{"source tokens": 8}))
    prefix = {"prefix tokens": [int(INPUTS["input_ids"][0, 0])], "prefix": "'p: '"}
    assert "without the prefix 'p: '" in warned(certified(model, **prefix))
    one = {name: value[:1] for name, value in INPUTS.items()}
    assert warned(certified(model, **prefix), one) == ""


def test_decoding_is_that_of_its_version():
    """Where this fails because decoding was changed on purpose, raise PIPELINE_VERSION: what was certified
    before is about other texts."""
    model = tiny_model()
    with torch.no_grad():  # numbers that any generator of random numbers gives
        for number, (_, parameter) in enumerate(sorted(model.named_parameters())):
            places = torch.arange(parameter.numel(), dtype=torch.float64)
            values = torch.sin(places * 12.9898 + number * 78.233) * 43758.5453
            parameter.copy_(((values - values.floor()) - 0.5).view(parameter.shape) * 6)
    policy = ExitPolicy(measure="softmax", threshold=0.3)
    found = model.generate(
        input_ids=torch.arange(2, 14)[None],
        max_new_tokens=16,
        exit_policy=policy,
        return_dict_in_generate=True,
    )
    own = (found.sequences[0].tolist(), found.exit_layers[0].tolist())
    assert own == GOLDEN, f"version {PIPELINE_VERSION}"


GOLDEN = (
    [0, 34, 56, 10, 32, 82, 10, 32, 47, 94, 14, 33, 92, 56, 47, 37, 49],
    [4, 3, 2, 2, 4, 1, 3, 1, 4, 4, 2, 1, 3, 1, 4, 3],
)
