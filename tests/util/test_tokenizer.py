import pytest
import torch
from transformers import AutoTokenizer

from early_exit import ExitPolicy
from early_exit.models.loading import new_model
from tests.tiny import FAMILIES, source_batch, tiny_model
from util.corpus import generate
from util.errors import UsageError
from util.tokenizer import fit_embeddings, number_of_ids, train_tokenizer

TEXTS = [text for example in generate("train", 300) for text in example.values()]


def test_texts_survive_and_the_saved_tokenizer_is_the_same(tmp_path):
    tokenizer = train_tokenizer(TEXTS, 600)
    assert len(tokenizer) <= 600
    tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    for text in TEXTS[:50]:
        ids = tokenizer(text).input_ids
        assert ids[-1] == tokenizer.eos_token_id
        assert tokenizer.decode(ids, skip_special_tokens=True) == text
        assert again(text).input_ids == ids
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id) == (0, 1, 2)


def test_frequent_words_are_one_piece_and_unknown_letters_do_not_fail():
    tokenizer = train_tokenizer(TEXTS, 1200)
    assert tokenizer.tokenize("council leader") == ["▁council", "▁leader"]
    assert tokenizer.unk_token_id in tokenizer("Zürich 東京").input_ids


def test_no_text_is_an_error():
    with pytest.raises(ValueError, match="no text"):
        train_tokenizer(["", "  "], 100)


@pytest.mark.parametrize("size", [100, 101, 150, 604])
def test_there_are_at_most_so_many_pieces(size):
    letters = [chr(code) for code in range(0x4E00, 0x4E00 + 600)]
    tokenizer = train_tokenizer([" ".join(letters), *TEXTS], size)
    assert len(tokenizer) <= size
    assert number_of_ids(tokenizer) <= size
    assert tokenizer.decode(tokenizer("the council").input_ids, skip_special_tokens=True) == "the council"


@pytest.mark.parametrize("more", [0, 1, 900])
def test_a_model_gets_embeddings_for_all_ids(more):
    tokenizer = train_tokenizer(TEXTS, 300)
    model = new_model("tiny", len(tokenizer))
    before = model.shared.weight.clone()
    tokenizer.add_tokens([f"<extra {number}>" for number in range(more)])
    fit_embeddings(model, tokenizer, may_grow=True)
    rows = len(tokenizer)
    assert model.config.vocab_size == model.shared.num_embeddings == model.lm_head.out_features == rows
    assert torch.equal(model.shared.weight[: len(before)], before)
    ids = tokenizer(f"the <extra {more - 1}>" if more else "the", return_tensors="pt").input_ids
    assert ids.max() < rows
    for policy in (None, ExitPolicy(static_layer=1)):
        assert model.generate(ids, max_new_tokens=3, exit_policy=policy).shape[1] <= 4


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_model_of_any_family_and_type_may_grow(family, dtype):
    model, tokenizer = tiny_model(family).to(dtype), train_tokenizer(TEXTS, 300)
    before = model(**source_batch(2, 5), decoder_input_ids=torch.zeros(2, 3, dtype=torch.long)).logits
    fit_embeddings(model, tokenizer, may_grow=True)
    after = model(**source_batch(2, 5), decoder_input_ids=torch.zeros(2, 3, dtype=torch.long)).logits
    assert after.shape[-1] == len(tokenizer)
    torch.testing.assert_close(after[..., :97], before)  # products of another width add in another order
    model.float().check_exit_heads("MLP")


def test_what_may_not_grow_is_refused_and_fewer_ids_change_nothing():
    tokenizer = train_tokenizer(TEXTS, 300)
    model = new_model("tiny", len(tokenizer) - 1)
    with pytest.raises(UsageError, match=f"ids up to {len(tokenizer) - 1}, the model embeddings for"):
        fit_embeddings(model, tokenizer, may_grow=False)
    model = new_model("tiny", len(tokenizer) + 28)  # as T5's own checkpoints have them
    fit_embeddings(model, tokenizer, may_grow=True)
    assert model.shared.num_embeddings == len(tokenizer) + 28
