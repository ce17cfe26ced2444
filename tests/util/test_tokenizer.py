import pytest
from transformers import AutoTokenizer

from util.corpus import generate
from util.tokenizer import train_tokenizer

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
