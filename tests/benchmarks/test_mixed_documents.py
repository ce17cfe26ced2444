"""Documents of two halves."""

from benchmarks.mixed_documents import mixed

SENTENCES = ["one two three four", "five six", "seven"]
HALVES = ("one two", "five", "seven"), ("three four", "six", "seven")


def test_a_text_is_the_first_half_of_one_and_the_second_half_of_another():
    texts = mixed(SENTENCES, 200, seed=3)
    assert set(texts) == {f"{first} {second}" for first in HALVES[0] for second in HALVES[1]}
    assert texts == mixed(SENTENCES, 200, seed=3)
    assert texts != mixed(SENTENCES, 200, seed=4)
