import string
from collections import Counter

import nltk
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rouge_score import rouge_scorer

from util.dissimilarity import (
    CONSISTENCY,
    QUALITY,
    TEXTUAL,
    loss,
    mismatch,
    rouge_l,
    token_error,
    token_f1,
)

CYRILLIC = str.maketrans(string.ascii_lowercase, "абвгдежзийклмнопрстуфхцчшщ")
english = st.text("abcRunnings1 .,'-\n", max_size=40)

texts = st.lists(st.sampled_from("the a cat dog sat ran home".split()), max_size=8).map(" ".join)


@pytest.mark.parametrize("name", TEXTUAL)
@given(early=texts, full=texts)
def test_textual_losses_lie_in_0_to_1_and_are_0_for_the_same_text(name, early, full):
    assert 0 <= loss("textual", name, early, full, "") <= 1
    assert loss("textual", name, full, full, "") == 0
    if not set(early.split()) & set(full.split()) and (early or full) and name != "chrf":  # letters in common
        assert loss("textual", name, early, full, "") == 1


@pytest.mark.parametrize(("consistency", "name"), [(c, name) for c in CONSISTENCY for name in CONSISTENCY[c]])
@given(text=st.text(), full=st.text(), reference=st.text())
def test_a_text_loses_nothing_against_itself(consistency, name, text, full, reference):
    assert loss(consistency, name, text, text, reference) == 0
    if consistency == "risk":
        assert loss(consistency, name, text, full, text) == 0
    assert 0 <= loss(consistency, name, text, full, reference) <= 1


@pytest.mark.parametrize("name", QUALITY)
@given(text=st.text())
def test_a_text_has_all_of_its_own_quality(name, text):
    assert QUALITY[name](text, text) == 1


@given(early=english, full=english)
def test_english_losses_are_what_they_were(early, full):
    """Against the definitions over rouge-score's own tokens and words between spaces."""
    package = rouge_scorer.RougeScorer(["rougeL"], use_stemmer=True)
    if any(letter.isalnum() for letter in early + full):
        assert rouge_l(early, full) == package.score(full, early)["rougeL"].fmeasure
    own, other = early.split(), full.split()
    longest = max(len(own), len(other))
    assert token_error(early, full) == (nltk.edit_distance(own, other) / longest if longest else 0)
    assert mismatch(early, full) == (own != other)
    own, other = Counter(early.lower().split()), Counter(full.lower().split())
    total = own.total() + other.total()
    assert token_f1(early, full) == (2 * (own & other).total() / total if total else 1)


@pytest.mark.parametrize("name", [name for name in TEXTUAL if name != "mismatch"])
@given(early=texts, full=texts)
def test_a_loss_sees_another_script_as_it_sees_english(name, early, full):
    """Words that Porter's stemmer leaves alone, mapped letter by letter."""
    twins = [text.translate(CYRILLIC) for text in (early, full)]
    assert loss("textual", name, *twins, "") == loss("textual", name, early, full, "")
    assert loss("risk", "rouge", *twins, twins[1]) == loss("risk", "rouge", early, full, full)


def test_scripts_without_spaces_are_compared_by_characters():
    early, full = "今天天气很好", "今天天气不好"
    for name in ("rouge", "token_error"):
        assert loss("textual", name, early, full, "") == pytest.approx(1 / 6)
    assert loss("risk", "token_f1", early, full, full) == pytest.approx(1 / 6)
    assert loss("textual", "token_error", "Größe", "Grosse", "") == 1


@pytest.mark.parametrize(("early", "full"), [("👍", "👎"), ("", "👍"), ("!!", "??"), ("👍", "good")])
@pytest.mark.parametrize("name", TEXTUAL)
def test_different_texts_without_words_differ(name, early, full):
    assert loss("textual", name, early, full, "") == 1


@pytest.mark.parametrize("name", QUALITY)
@given(early=texts, full=texts, reference=texts)
def test_risk_is_what_is_lost_against_the_reference(name, early, full, reference):
    quality = QUALITY[name]
    expected = max(0.0, quality(full, reference) - quality(early, reference))
    assert loss("risk", name, early, full, reference) == pytest.approx(expected)
    assert 0 <= expected <= 1
    assert loss("risk", name, reference, full, reference) == 0


@pytest.mark.parametrize(("consistency", "name"), [(c, name) for c in CONSISTENCY for name in CONSISTENCY[c]])
def test_two_empty_texts_lose_nothing(consistency, name):
    assert loss(consistency, name, "", "", "") == 0


def test_known_values():
    assert loss("textual", "token_error", "a cat sat", "a dog sat home", "") == pytest.approx(2 / 4)
    assert loss("textual", "rouge", "a cat sat", "a cat ran", "") == pytest.approx(1 - 2 / 3)
    assert loss("textual", "mismatch", "a  cat", "a cat", "") == 0
    assert loss("risk", "token_f1", "a cat", "a cat sat home", "a cat sat home") == pytest.approx(1 - 2 / 3)
