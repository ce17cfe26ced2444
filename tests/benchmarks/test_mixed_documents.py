"""Documents of two halves."""

from itertools import product

import pytest

from benchmarks.mixed_documents import mixed

SENTENCES = ["one two three four", "five six", "seven"]
RECORDS = ["name[The Mill], food[a, b], area[old]", "name[Aromi], near[Zizzi]"]


@pytest.mark.parametrize(
    ("documents", "separator", "halves"),
    [
        (SENTENCES, " ", [("one two", "five", "seven"), ("three four", "six", "seven")]),
        (RECORDS, "], ", [("name[The Mill", "name[Aromi"), ("food[a, b], area[old]", "near[Zizzi]")]),
    ],
)  # fmt: skip
def test_a_text_is_the_first_half_of_one_and_the_second_half_of_another(documents, separator, halves):
    texts = mixed(documents, 200, seed=3, separator=separator)
    assert set(texts) == {separator.join(pair) for pair in product(*halves)}
    assert texts == mixed(documents, 200, seed=3, separator=separator)
    assert texts != mixed(documents, 200, seed=4, separator=separator)
