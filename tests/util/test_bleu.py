"""BLEU and chrF, against NLTK's BLEU and definitions written out."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nltk.translate.bleu_score import corpus_bleu

from util.bleu import sentence_bleu, sentence_chrf, translation_rules, translation_scores

ENGLISH, CHINESE = "en", "zh_CN"
words = st.lists(st.sampled_from("ein Hund läuft über die Straße groß".split()), min_size=4, max_size=9)


@given(pairs=st.lists(st.tuples(words, words), min_size=1, max_size=4))
def test_corpus_bleu_is_nltks_where_nothing_is_smoothed(pairs):
    texts, right = zip(*pairs, strict=True)
    matches = Counter(
        gram for own, other in pairs for gram in {tuple(own[i : i + 4]) for i in range(len(own) - 3)}
        if gram in {tuple(other[i : i + 4]) for i in range(len(other) - 3)}
    )  # fmt: skip
    if matches:
        expected = 100 * corpus_bleu([[other] for other in right], list(texts))
        found = translation_scores([*map(" ".join, texts)], [[" ".join(other)] for other in right], ENGLISH)
        assert found["bleu"] == pytest.approx(expected)


def naive_chrf(text, reference):
    """Mean over orders 1 to 6 of precision and recall, then F with β = 2 (orders that both have)."""
    own, other = ("".join(each.split()) for each in (text, reference))
    precisions, recalls = [], []
    for order in range(1, 7):
        left, right = (
            Counter(each[i : i + order] for i in range(len(each) - order + 1)) for each in (own, other)
        )
        if left and right:
            common = (left & right).total()
            precisions.append(common / left.total())
            recalls.append(common / right.total())
    precision, recall = (sum(each) / len(each) for each in (precisions, recalls))
    return 5 * precision * recall / (4 * precision + recall) if precision + recall else 0.0


@given(text=words, reference=words)
def test_chrf_is_its_definition(text, reference):
    text, reference = " ".join(text), " ".join(reference)
    assert sentence_chrf(text, reference) == pytest.approx(naive_chrf(text, reference))


def test_the_best_of_several_references_and_not_as_many_everywhere():
    texts = ["ein Hund läuft über die Straße", "eine Katze schläft auf dem Dach"]
    references = [["ein Kind lacht sehr laut heute", texts[0]], [texts[1]]]
    assert translation_scores(texts, references, ENGLISH) == pytest.approx({"bleu": 100, "chrf": 100})


def test_sentences():
    assert sentence_bleu("ein Hund", "ein Hund") == sentence_bleu("", "") == sentence_chrf("", "") == 1
    assert sentence_bleu("", "ein Hund") == sentence_chrf("", "ein Hund") == 0
    # Three of four words, two of three pairs, one of two triples, none of four words: a half for that.
    expected = (3 / 4 * 2 / 3 * 1 / 2 * 1 / 2) ** 0.25
    assert sentence_bleu("ein Hund läuft dort", "ein Hund läuft hier") == pytest.approx(expected)
    assert 0 < sentence_bleu("今天天气很好", "今天天气不好") < 1


def test_scripts_without_spaces_have_a_tokenizer_of_their_own():
    texts, references = ["今天天气很好吗"], [["今天天气很好啊"]]
    assert translation_scores(texts, references, CHINESE)["bleu"] > 50
    assert translation_scores(texts, references, ENGLISH)["bleu"] == 0
    assert "tok:zh" in translation_rules(CHINESE)["bleu_rules"]
    assert "tok:13a" in translation_rules(ENGLISH)["bleu_rules"]
    assert "version" in translation_rules(ENGLISH)["chrf_rules"]
