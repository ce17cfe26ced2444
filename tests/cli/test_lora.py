"""Low-rank adaptation by its flags: what is trained, merged, resumed and refused."""

import pytest
import torch
from safetensors.torch import load_file
from transformers import T5ForConditionalGeneration

from early_exit.models.loading import load_model
from early_exit.models.lora import LoraSettings, add_lora, merge_lora
from tests.cli.conftest import call, train_flags
from tests.cli.test_bad_input import fails_with
from tests.cli.test_training import check_going_on, more_flags
from tests.tiny import MODELS, source_batch, tiny_model

LORA = ["--use_lora", "True", "--lora_rank", "2", "--lora_alpha", "4", "--lora_dropout", "0"]


def weights(folder):
    return load_file(folder / "model.safetensors")


def test_updates_of_low_rank_are_merged_into_a_plain_t5(model, tmp_path):
    more = [*LORA, "--lora_target_modules", "q", "wo", "--learning_rate", "1e-2"]
    assert call(*more_flags(model, tmp_path, *more)) == 0
    before, after = weights(model), weights(tmp_path)
    assert set(before) == set(after)
    T5ForConditionalGeneration.from_pretrained(tmp_path)
    for name, weight in before.items():
        change = after[name] - weight
        if ".q." in name or ".wo." in name:
            singular = torch.linalg.svdvals(change)
            assert singular[1] > 0
            assert (singular[2:] < 1e-3 * singular[0]).all(), name
        elif name != "token_ranking":  # of the texts that were trained on
            assert torch.equal(after[name], weight), name


def test_a_run_goes_on_as_it_was(model, tmp_path, monkeypatch):
    check_going_on(model, tmp_path, monkeypatch, *LORA, "--learning_rate", "1e-2")


@pytest.mark.parametrize("family", MODELS)
def test_a_merged_model_computes_what_the_adapted_one_did(family):
    model = tiny_model(family).eval()
    names = list(model.state_dict())
    add_lora(model, LoraSettings(rank=2, targets=("q", "k", "v", "o", "wo")))
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert trained
    assert all("lora_" in name for name in trained)
    for name in trained:
        model.get_parameter(name).data.normal_(std=0.1)
    inputs, labels = source_batch(2, 5), torch.randint(2, 97, (2, 4))
    adapted = model(**inputs, labels=labels, exit_loss="ce").loss
    merge_lora(model)
    assert list(model.state_dict()) == names
    torch.testing.assert_close(model(**inputs, labels=labels, exit_loss="ce").loss, adapted)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--lora_rank", "2"], "--lora_rank has no effect without --use_lora True"),
        (["--lora_target_modules", "q"], "--lora_target_modules has no effect without --use_lora True"),
        ([*LORA, "--lora_rank", "0"], "LoRA's rank 0 is not at least 1"),
        ([*LORA, "--lora_alpha", "0"], "LoRA's alpha 0.0 is not above 0"),
        ([*LORA, "--lora_dropout", "1"], "LoRA's dropout 1.0 is outside [0, 1)"),
        (
            [*LORA, "--lora_target_modules", "q,query"],
            "no linear layers 'query' for LoRA; it has: k, o",
        ),
        (
            [*LORA, "--train_meta_cm_head", "--exit_conf_type", "MLP"],
            "rather than exit heads",
        ),
    ],
)
def test_bad_flags(capsys, model, tmp_path, more, message):
    fails_with(capsys, more_flags(model, tmp_path / "o", *more), message)
    assert not (tmp_path / "o").exists()


def test_random_weights_are_not_adapted(capsys, tmp_path):
    fails_with(capsys, train_flags(tmp_path / "o", *LORA), "--use_lora adapts a trained model")


def test_a_checkpoint_is_loaded_without_traces(model, tmp_path):
    assert call(*more_flags(model, tmp_path, *LORA, "--max_steps", "1")) == 0
    loaded = load_model(str(tmp_path))
    assert not [name for name, _ in loaded.named_parameters() if "lora" in name]
