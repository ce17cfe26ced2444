"""Exit heads with a model: what they learn, how they are kept, and that decoding sees what training saw."""

import copy
import warnings

import pytest
import torch
from transformers import T5Config, T5ForConditionalGeneration

from early_exit import ExitPolicy
from early_exit.models.exit_heads import ExitHead
from early_exit.models.head_training import agreement_with_full_depth, head_log_odds, head_training_loss
from early_exit.models.loading import load_model
from early_exit.models.t5 import EarlyExitT5
from tests.tiny import HEADS, source_batch, tiny_model


@pytest.mark.slow
@pytest.mark.parametrize("name", HEADS)
def test_a_head_learns_which_states_agree(name):
    """The probability is that of agreeing, not of its opposite."""
    torch.manual_seed(0)
    head = ExitHead(name, d_model=16, epsilon=1e-6)
    states = torch.randn(8, 12, 16)
    agrees = states[..., 0] > 0
    optimizer = torch.optim.Adam(head.parameters(), lr=0.03)
    for _ in range(200):
        optimizer.zero_grad()
        torch.nn.functional.binary_cross_entropy_with_logits(head(states), agrees.float()).backward()
        optimizer.step()
    confidence = head(states).sigmoid()
    assert confidence[agrees].mean() > 0.8
    assert confidence[~agrees].mean() < 0.2


def labels_of(rows: int) -> torch.Tensor:
    labels = torch.randint(2, 97, (rows, 7), generator=torch.Generator().manual_seed(3))
    labels[1, 4:] = -100
    return labels


def test_agreement_is_layer_by_layer_and_leaves_padding_out():
    model, inputs, labels = tiny_model(), source_batch(3, 6), labels_of(3)
    seen = agreement_with_full_depth(model, **inputs, labels=labels)
    assert torch.equal(seen.kept, labels != -100)
    with torch.no_grad():
        outputs = model(**inputs, labels=labels, output_hidden_states=True)
        for layer in range(1, model.num_exits):
            state = outputs.decoder_hidden_states[layer]
            assert torch.equal(seen.states[layer - 1], state)
            own = model.exit_logits(state).argmax(-1)
            assert torch.equal(seen.agrees[layer - 1], own == outputs.logits.argmax(-1))
    assert 0 < seen.agrees.float().mean() < 1


@pytest.mark.parametrize("loss", ["independent", "geometric"])
def test_the_training_set_is_counted_while_training_only(loss):
    model, inputs = tiny_model(), {**source_batch(3, 6), "labels": labels_of(3)}
    seen = agreement_with_full_depth(model, **inputs)
    for name in HEADS:
        model.add_exit_heads(name)
    with torch.no_grad():
        head_training_loss(model, HEADS, loss, inputs, None)
    assert all(model.exit_heads[name].seen.sum() == 0 for name in HEADS)
    for _ in range(2):
        head_training_loss(model, HEADS, loss, inputs, None)
    agreed, labelled = [0] * 3, [0] * 3
    for tokens in seen.agrees[:, seen.kept].T.tolist():
        for layer, agrees in enumerate(tokens):
            agreed[layer] += 2 * agrees
            labelled[layer] += 2
            if agrees and loss == "geometric":
                break
    for name in HEADS:
        assert model.exit_heads[name].agreed.tolist() == agreed
        assert model.exit_heads[name].seen.tolist() == labelled


@pytest.mark.slow
def test_heads_are_saved_with_the_model_and_t5_loads_it_without_them(tmp_path):
    model, inputs = tiny_model(), source_batch(3, 6)
    options = {**inputs, "max_new_tokens": 8, "return_dict_in_generate": True}
    model.save_pretrained(tmp_path)
    again = load_model(str(tmp_path)).eval()
    for name in HEADS:
        layers = set()
        for threshold in (0.3, 0.5, 0.7, 0.9):
            policy = ExitPolicy(measure=name, threshold=threshold)
            first, second = (each.generate(**options, exit_policy=policy) for each in (model, again))
            assert torch.equal(first.exit_layers, second.exit_layers)
            layers |= set(first.exit_layers.flatten().tolist())
        assert len(layers) > 1
    plain = T5ForConditionalGeneration.from_pretrained(tmp_path).eval()
    decoder_input_ids = torch.zeros(3, 1, dtype=torch.long)
    with torch.no_grad():
        expected = plain(**inputs, decoder_input_ids=decoder_input_ids).logits
        assert torch.equal(model(**inputs, decoder_input_ids=decoder_input_ids).logits, expected)


def test_a_head_that_the_model_lacks_is_named_with_those_it_has():
    policy = ExitPolicy(measure="transformer_linear_64")
    with pytest.raises(ValueError, match="no exit head 'transformer_linear_64'; it has: MLP, transformer"):
        tiny_model().generate(**source_batch(1, 4), exit_policy=policy, max_new_tokens=2)


def test_heads_of_other_weights_are_refused(tmp_path):
    model = tiny_model()
    policy = ExitPolicy(measure="MLP", threshold=0.5)
    # The same weights in another type are the same weights.
    tiny_model().bfloat16().generate(**source_batch(1, 4), exit_policy=policy, max_new_tokens=2)
    with torch.no_grad():
        model.decoder.block[2].layer[0].SelfAttention.q.weight.mul_(1.1)
    with pytest.raises(ValueError, match="exit head 'MLP' was trained on a model with other weights"):
        model.generate(**source_batch(1, 4), exit_policy=policy, max_new_tokens=2)


@pytest.mark.parametrize("name", HEADS)
def test_decoding_at_full_depth_sees_the_confidences_of_training(name):
    """Where no token leaves, a token's confidence while decoding is what a pass over the whole text gives."""
    model, inputs = tiny_model(), source_batch(1, 5)
    options = {**inputs, "max_new_tokens": 9, "min_new_tokens": 9, "return_dict_in_generate": True}
    for layer in range(1, model.num_exits):
        policy = ExitPolicy(measure=name, threshold=1.0, min_layer=layer)
        decoded = model.generate(**options, exit_policy=policy)
        assert (decoded.exit_layers == model.num_exits).all()
        states = agreement_with_full_depth(model, **inputs, labels=decoded.sequences[:, 1:]).states
        log_odds = head_log_odds(model, name, states) - model.exit_heads[name].prior_log_odds()[:, None, None]
        highest = log_odds[layer - 1 :].sigmoid().max()
        assert decoded.max_stay_confidence.item() == pytest.approx(highest.item(), abs=1e-5)


@pytest.mark.parametrize("precision", ["bfloat16", "int8", "w8a8"])
def test_heads_compute_in_every_precision(precision):
    model, inputs = tiny_model(), source_batch(4, 6)
    for name in HEADS:
        output = model.generate(
            **inputs,
            max_new_tokens=6,
            exit_policy=ExitPolicy(measure=name, threshold=0.3),
            engine_precision=precision,
            return_dict_in_generate=True,
        )
        left = output.exit_layers[~output.confidences.isnan()]
        assert len(left) > 0
        assert output.confidences.nanmean() > 0.3


def test_a_decoder_of_one_layer_has_no_exit_to_ask():
    config = T5Config(
        vocab_size=9, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_decoder_layers=1, num_heads=2
    )
    with pytest.raises(ValueError, match="needs an exit below full depth; the decoder has one layer"):
        EarlyExitT5(config).add_exit_heads("MLP")


@pytest.mark.parametrize(
    "add", [lambda model: model.add_exit_heads("none"), lambda model: model.add_exit_adapters(rank=999)]
)
def test_what_cannot_be_added_leaves_the_configuration_as_it_was(add):
    model = tiny_model()
    before = copy.deepcopy(model.config.to_dict())
    with pytest.raises(ValueError, match=r"none|999"):
        add(model)
    assert model.config.to_dict() == before


def test_heads_and_adapters_whose_weights_are_missing_are_left_out(tmp_path):
    """The stock class saves a checkpoint again without them, and keeps what the configuration says."""
    model = tiny_model()
    model.add_exit_adapters()
    model.save_pretrained(tmp_path / "ours")
    T5ForConditionalGeneration.from_pretrained(tmp_path / "ours").save_pretrained(tmp_path / "again")
    with pytest.warns(UserWarning, match="no weights of its exit head 'MLP', .*, exit adapters: left out"):
        loaded = load_model(str(tmp_path / "again"))
    with pytest.raises(ValueError, match="the model has no exit head 'MLP'; it has: none"):
        loaded.check_exit_heads("MLP")
    assert loaded.exit_adapters is None
    loaded.save_pretrained(tmp_path / "third")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_model(str(tmp_path / "third"))
