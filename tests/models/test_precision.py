"""The engine in int8 and bfloat16, and packed weights beside the model's own."""

import copy
import gc
import weakref

import pytest
import torch

from early_exit import PRECISIONS, ExitPolicy
from early_exit.linear import has_native
from early_exit.models import engines
from early_exit.models.encoder import engine_encoder
from tests.tiny import FAMILIES, MODELS, source_batch, tiny_model

FULL_DEPTH = ExitPolicy()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("precision", "tolerance"), [("float32", 1e-4), ("bfloat16", 0.4), ("int8", 0.4), ("w8a8", 0.4)]
)
@pytest.mark.parametrize("sources", [1, 3])
@torch.no_grad()
def test_encoders_encode_as_the_model_does(family, precision, tolerance, sources):
    inputs = source_batch(sources, longest=9)
    real = inputs["attention_mask"] == 1
    expected = MODELS[family].encoder(**inputs).last_hidden_state[real]
    encoded = engine_encoder(MODELS[family], precision)(**inputs).last_hidden_state.float()[real]
    # Attention in random models is sharp, and what it picks turns on small differences.
    assert (encoded - expected).norm() <= tolerance * expected.norm()


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_decoding_leaves_the_model_as_it_was(precision, dtype):
    model = tiny_model().to(dtype)
    before, modules = copy.deepcopy(model.state_dict()), [name for name, _ in model.named_modules()]
    model.generate(**source_batch(2, 9), max_new_tokens=4, exit_policy=FULL_DEPTH, engine_precision=precision)
    assert [name for name, _ in model.named_modules()] == modules
    for name, tensor in model.state_dict().items():
        assert tensor.dtype == before[name].dtype
        assert torch.equal(tensor, before[name])


def each_alone(policy, precision):
    """Of five rows: tokens, exit layers and confidences in their batch, and those without the others and
    their padding."""
    inputs = source_batch(5, longest=9)
    options = {"max_new_tokens": 10, "exit_policy": policy, "engine_precision": precision}
    options["return_dict_in_generate"] = True
    together = MODELS["t5"].generate(**inputs, **options)
    for row, mask in enumerate(inputs["attention_mask"]):
        tokens = inputs["input_ids"][row : row + 1, : int(mask.sum())]
        alone = MODELS["t5"].generate(input_ids=tokens, **options)
        steps = alone.exit_layers.shape[1]
        names = {"sequences": steps + 1, "exit_layers": steps, "confidences": steps}
        yield [(together[name][row, :length], alone[name][0]) for name, length in names.items()]


@pytest.mark.skipif(not has_native("cpu"), reason="needs the compiled kernels")
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("threshold", [1.0, 0.1])
def test_rows_decode_bit_for_bit_as_they_do_alone(threshold, precision):
    policy = ExitPolicy(measure="softmax", threshold=threshold)
    for texts, layers, confidences in each_alone(policy, precision):
        assert torch.equal(*texts)
        assert torch.equal(*layers)
        assert torch.equal(*(each.nan_to_num(-1) for each in confidences))


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_confidences_of_propagated_tokens_do_not_depend_on_how_many_rows_ask(precision):
    """One row gathers its tokens' rows of the head; five compute all logits."""
    policy = ExitPolicy(measure="softmax", threshold=0.3, top_k=3)
    for texts, _, confidences in each_alone(policy, precision):
        assert torch.equal(*texts)
        torch.testing.assert_close(*confidences, rtol=0, atol=1e-4, equal_nan=True)


@pytest.mark.skipif(not has_native("cpu"), reason="needs the compiled kernels")
@pytest.mark.parametrize("family", ["t5", "umt5"])
@pytest.mark.parametrize("precision", PRECISIONS)
@torch.no_grad()
def test_a_source_is_encoded_as_it_is_alone_whatever_stands_beside_it(family, precision):
    """Beside one with padding between its tokens, or with nothing else, too; and whatever is returned."""
    inputs, encoder = source_batch(4, longest=9), engine_encoder(MODELS[family], precision)
    inputs["attention_mask"][1] = torch.tensor([1, 1, 0, 1, 1, 1, 0, 0, 1])
    inputs["attention_mask"][2] = 0
    together = encoder(**inputs).last_hidden_state
    for row in range(4):
        own = {name: tensor[row : row + 1] for name, tensor in inputs.items()}
        for more in ({}, {"output_attentions": True}):
            alone = encoder(**own, **more).last_hidden_state
            torch.testing.assert_close(together[row], alone[0], rtol=1e-5, atol=1e-5, check_dtype=False)


@torch.no_grad()
def test_an_encoder_made_while_training_drops_nothing_out_later():
    model = tiny_model("longt5")
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.5
    inputs, encoder = source_batch(2, 9), engine_encoder(model.train(), "bfloat16")
    first, second = (encoder(**inputs).last_hidden_state for _ in range(2))
    assert torch.equal(first, second)


@pytest.mark.parametrize("token", [-1, -100, 97, 10**6])
@pytest.mark.parametrize("name", ["input_ids", "decoder_input_ids", "decoder_start_token_id"])
def test_tokens_outside_the_vocabulary_are_refused(name, token):
    inputs = source_batch(2, 5) | {"max_new_tokens": 3}
    if name == "input_ids":
        inputs["input_ids"][1, 0] = token
    else:
        inputs[name] = token if name == "decoder_start_token_id" else torch.tensor([[0, token], [0, 5]])
    with pytest.raises((IndexError, ValueError), match=r"index out of range|allowed: 0 to 96"):
        MODELS["t5"].generate(**inputs, exit_policy=FULL_DEPTH)


@pytest.mark.parametrize("family", FAMILIES)
def test_int8_chooses_likely_tokens(family):
    """Random models hardly prefer one token to the next: what int8 chooses is at least among the first."""
    model, inputs = MODELS[family], source_batch(4, 9)
    tokens = model.generate(
        **inputs, max_new_tokens=8, exit_policy=FULL_DEPTH, engine_precision="int8", eos_token_id=[]
    )
    with torch.no_grad():
        logits = model(**inputs, decoder_input_ids=tokens[:, :-1]).logits  # [rows, steps, vocabulary]
    chosen = logits.gather(2, tokens[:, 1:, None])
    assert ((logits > chosen).sum(-1) < 5).float().mean() > 0.9


def test_precision_needs_an_exit_policy_and_a_known_name():
    inputs = source_batch(1, 5)
    with pytest.raises(ValueError, match="engine_precision needs an exit policy"):
        MODELS["t5"].generate(**inputs, engine_precision="int8")
    with pytest.raises(ValueError, match="unknown engine precision 'int3'"):
        MODELS["t5"].generate(**inputs, engine_precision="int3", exit_policy=FULL_DEPTH)


def test_packed_weights_go_with_their_model():
    model = tiny_model()
    model.generate(**source_batch(1, 5), max_new_tokens=2, exit_policy=FULL_DEPTH)
    copied = copy.deepcopy(model)  # a model that has generated can still be copied and saved
    assert model in engines._held
    assert copied not in engines._held
    packed = weakref.ref(engines._held[model])
    del model
    gc.collect()
    assert packed() is None
