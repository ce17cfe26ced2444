"""SQuAD's scores, against values worked out by hand and a naive loop."""

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from util.answers import answer_f1, answer_scores, answers, exact_match

texts = st.lists(st.sampled_from("the a An cat, cat dog. Dog ran 308 ß".split()), max_size=6).map(" ".join)


def naive_f1(text, reference):
    """Words matched one by one and crossed out."""

    def plain(each):
        letters = "".join(letter for letter in each.lower() if letter not in string.punctuation)
        return [word for word in letters.split() if word not in ("a", "an", "the")]

    own, left = plain(text), plain(reference)
    if not own or not left:
        return float(own == left)
    total, common = len(own) + len(left), 0
    for word in own:
        if word in left:
            left.remove(word)
            common += 1
    return 2 * common / total


@given(text=texts, reference=texts)
def test_f1_is_that_of_a_naive_loop(text, reference):
    assert answer_f1(text, reference) == pytest.approx(naive_f1(text, reference))
    assert exact_match(text, reference) <= answer_f1(text, reference)
    assert answer_f1(text, text) == exact_match(text, text) == 1


@pytest.mark.parametrize(
    ("text", "reference", "exact", "f1"),
    [
        ("The Denver Broncos!", "denver broncos", 1, 1),
        ("Broncos", "Denver Broncos", 0, 2 / 3),
        ("theory", "ory", 0, 0),
        ("Nürnberg, 1806", "nürnberg 1806", 1, 1),
        ("Nürnberg", "Nurnberg", 0, 0),
        ("東京", "東京", 1, 1),
        ("", "", 1, 1),
        ("", "308", 0, 0),
    ],
)
def test_known_values(text, reference, exact, f1):
    assert exact_match(text, reference) == exact
    assert answer_f1(text, reference) == pytest.approx(f1)


def test_the_best_reference_counts():
    found = answer_scores(["in Paris", "x"], [["London", "Paris"], ["y", "X"]])
    assert found == {"exact_match": 50.0, "f1": pytest.approx(100 * (2 / 3 + 1) / 2)}


def test_questions_without_an_answer_are_right_where_nothing_is_said():
    found = answer_scores(["", "Paris", "Paris"], [[""], [""], ["Paris"]], may_lack=True)
    assert found["exact_match"] == pytest.approx(200 / 3)
    assert (found["no_answer_exact_match"], found["has_answer_exact_match"]) == (50, 100)
    assert "no_answer_f1" not in answer_scores(["Paris"], [["Paris"]], may_lack=True)


@pytest.mark.parametrize("cell", [{"text": ["a", "a", "b"], "answer_start": ["1"]}, ["a", "b"]])
def test_cells_of_answers(cell):
    assert answers(cell) == ["a", "b"]
    assert answers("a") == ["a"]


@pytest.mark.parametrize("cell", [{"text": [], "answer_start": []}, [], "", None, [" "]])
def test_no_answer_needs_a_flag(cell):
    assert answers(cell, may_lack=True) == [""]
    with pytest.raises(ValueError, match="holds no answer, which --version_2_with_negative allows"):
        answers(cell)


@pytest.mark.parametrize("cell", [{"text": [3]}, [["a"]], 3])
def test_other_cells_are_refused(cell):
    with pytest.raises(ValueError, match="holds neither texts nor"):
        answers(cell)
