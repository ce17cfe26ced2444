import copy

import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import (
    AutoModelForSeq2SeqLM,
    LongT5ForConditionalGeneration,
    MT5ForConditionalGeneration,
    T5ForConditionalGeneration,
    UMT5ForConditionalGeneration,
)

from early_exit import layer_weights
from early_exit.models.loading import load_model, new_model
from tests.tiny import FAMILIES, source_batch, tiny_model

PLAIN = {
    "t5": T5ForConditionalGeneration,
    "t5 v1.1": T5ForConditionalGeneration,
    "byt5": T5ForConditionalGeneration,
    "mt5": MT5ForConditionalGeneration,
    "umt5": UMT5ForConditionalGeneration,
    "longt5": LongT5ForConditionalGeneration,
    "longt5 global": LongT5ForConditionalGeneration,
}


@pytest.fixture
def batch():
    labels = torch.randint(2, 97, (3, 7))
    labels[1, 4:] = -100
    return source_batch(3, 9) | {"labels": labels}


@pytest.mark.parametrize("family", FAMILIES)
def test_checkpoint_loads_in_plain_transformers_with_identical_logits(family, batch, tmp_path):
    model = tiny_model(family)
    model.save_pretrained(tmp_path)
    plain = PLAIN[family].from_pretrained(tmp_path).eval()
    assert type(AutoModelForSeq2SeqLM.from_pretrained(tmp_path)) is PLAIN[family]
    again = load_model(str(tmp_path)).eval()
    assert type(again) is type(model)
    with torch.no_grad():
        logits = model(**batch).logits
        assert torch.equal(plain(**batch).logits, logits)
        assert torch.equal(again(**batch).logits, logits)


@pytest.mark.parametrize("family", FAMILIES)
def test_exits_are_scaled_as_full_depth_is(family, batch):
    """A model cut off after layer k is a plain model of k layers: its logits are exit k's."""
    model = tiny_model(family)
    with torch.no_grad():
        hidden = model(**batch, output_hidden_states=True).decoder_hidden_states
        blocks = model.decoder.block
        for layer in range(1, 4):
            model.decoder.block = blocks[:layer]
            expected = PLAIN[family].forward(model, **batch).logits
            torch.testing.assert_close(model.exit_logits(hidden[layer]), expected)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("weighting", ["weighted_ce", "ce", "last_ce"])
def test_joint_loss_equals_cross_entropy_of_each_exit(family, weighting, batch):
    model = tiny_model(family)
    with torch.no_grad():
        output = model(**batch, exit_loss=weighting)
        plain = model(**batch, output_hidden_states=True)
        logits = [model.exit_logits(hidden) for hidden in plain.decoder_hidden_states[1:-1]] + [plain.logits]
    losses = [cross_entropy(each.flatten(0, 1), batch["labels"].flatten()) for each in logits]
    weights = layer_weights(weighting, 4)
    torch.testing.assert_close(output.loss, sum(w * loss for w, loss in zip(weights, losses, strict=True)))
    for weight, loss, expected in zip(weights, output.exit_losses, losses, strict=True):
        if weight:
            torch.testing.assert_close(loss, expected)


def test_joint_loss_is_a_sum_over_tokens_divided_by_the_given_number(batch):
    model = tiny_model()
    mean = model(**batch, exit_loss="ce").loss
    tokens = (batch["labels"] != -100).sum()
    torch.testing.assert_close(model(**batch, exit_loss="ce", num_items_in_batch=5).loss, mean * tokens / 5)


def test_joint_loss_ignores_padding(batch):
    model = tiny_model()
    padded = {name: torch.nn.functional.pad(batch[name], (0, 3)) for name in ("input_ids", "attention_mask")}
    padded["labels"] = torch.nn.functional.pad(batch["labels"], (0, 2), value=-100)
    torch.testing.assert_close(
        model(**padded, exit_loss="weighted_ce").loss, model(**batch, exit_loss="weighted_ce").loss
    )


def test_a_batch_without_a_label_has_loss_zero(batch):
    batch["labels"][:] = -100
    assert tiny_model()(**batch, exit_loss="weighted_ce").loss.item() == 0


def test_a_model_type_without_exits_is_named(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "bart"}')
    with pytest.raises(ValueError, match="type 'bart'; known: t5, mt5"):
        load_model(str(tmp_path))


def test_weights_other_than_safetensors_are_refused(tmp_path):
    model = tiny_model()
    model.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(OSError, match="safetensors"):
        load_model(str(tmp_path))


def test_shapes():
    model = new_model("tiny", vocab_size=50)
    assert (model.num_exits, model.config.vocab_size) == (3, 50)
    with pytest.raises(ValueError, match=r"'huge'.*tiny, small"):
        new_model("huge", vocab_size=50)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_weights_that_a_checkpoint_lacks_are_drawn_as_in_transformers(family):
    model = tiny_model(family)
    ours, config = type(model), model.config
    config.exit_heads, config.token_ranking = {}, None
    drawn = []
    for model_class in (ours, PLAIN[family]):
        torch.manual_seed(0)
        drawn.append(
            model_class.from_pretrained(None, config=copy.deepcopy(config), state_dict={}).state_dict()
        )
    assert drawn[0].keys() == drawn[1].keys()
    for name, weight in drawn[1].items():
        assert torch.equal(drawn[0][name], weight), name
