import pytest
from hypothesis import given
from hypothesis import strategies as st

from util.dissimilarity import CONSISTENCY, QUALITY, TEXTUAL, loss

texts = st.lists(st.sampled_from("the a cat dog sat ran home".split()), max_size=8).map(" ".join)


@pytest.mark.parametrize("name", TEXTUAL)
@given(early=texts, full=texts)
def test_textual_losses_lie_in_0_to_1_and_are_0_for_the_same_text(name, early, full):
    assert 0 <= loss("textual", name, early, full, "") <= 1
    assert loss("textual", name, full, full, "") == 0
    if not set(early.split()) & set(full.split()) and (early or full):
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
