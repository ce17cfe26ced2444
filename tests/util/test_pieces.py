"""Pieces of texts: together they are the tokenizer's own decoding."""

from hypothesis import given
from hypothesis import strategies as st
from transformers import ByT5Tokenizer

from util.corpus import generate
from util.pieces import pieces
from util.tokenizer import train_tokenizer

UNIGRAM = train_tokenizer([row["document"] for row in generate("validation", 200)], 300)
BYTES = ByT5Tokenizer()


@given(st.lists(st.integers(0, 299), max_size=12))
def test_together_they_are_the_text(tokens):
    found = pieces(UNIGRAM, tokens)
    assert len(found) == len(tokens)
    assert "".join(found) == UNIGRAM.decode(tokens, skip_special_tokens=True)


@given(st.text(max_size=8))
def test_characters_of_several_bytes(text):
    tokens = BYTES(text).input_ids
    found = pieces(BYTES, tokens)
    assert len(found) == len(tokens)
    assert "".join(found) == BYTES.decode(tokens, skip_special_tokens=True)
    assert "\ufffd" not in "".join(found) or "\ufffd" in text


def test_a_piece_for_each_token():
    tokens = UNIGRAM("fire in the").input_ids
    found = pieces(UNIGRAM, tokens)
    assert found[-1] == ""  # the end token
    assert all(found[:-1])
