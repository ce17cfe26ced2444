"""The file of decoded texts."""

import math
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from util.decoded_texts import DecodedTexts
from util.errors import UsageError

TEXTS = st.lists(
    st.fixed_dictionaries(
        {"tokens": st.lists(st.integers(0, 9)), "layers": st.floats(allow_nan=False), "text": st.text()}
    ),
    max_size=3,
)


@given(parts=st.lists(st.dictionaries(st.text(max_size=4), TEXTS, max_size=4), max_size=4))
def test_it_is_a_dictionary_that_outlives_a_process(tmp_path_factory, parts):
    path, known = tmp_path_factory.mktemp("texts") / "new" / "texts.sqlite", {}
    for part in parts:
        DecodedTexts(path).add(part)
        known |= part
    assert DecodedTexts(path).find([*known, "absent"]) == known


def test_infinite_confidences_come_back(tmp_path):
    DecodedTexts(tmp_path / "t").add({"a": [-math.inf, 0.1]})
    assert DecodedTexts(tmp_path / "t").find(["a"]) == {"a": [-math.inf, 0.1]}


def test_several_may_write_at_once(tmp_path):
    def write(number):
        DecodedTexts(tmp_path / "t").add({f"{number} {place}": number for place in range(50)})

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(16)))
    found = DecodedTexts(tmp_path / "t").find([f"{number} 49" for number in range(16)])
    assert sorted(found.values()) == list(range(16))


def test_what_holds_something_else_is_refused_and_left(tmp_path):
    words, other, folder = tmp_path / "words.txt", tmp_path / "other.sqlite", tmp_path / "folder"
    words.write_text("not a database, " * 100)
    folder.mkdir()
    with closing(sqlite3.connect(other)) as database, database:
        database.execute("CREATE TABLE birds (name TEXT)")
    refused = ((words, "cannot be used"), (folder, "cannot be used"), (other, "holds something else"))
    for path, message in refused:
        before = path.read_bytes() if path.is_file() else None
        with pytest.raises(UsageError, match=message):
            DecodedTexts(path)
        assert path.is_dir() or path.read_bytes() == before
    with pytest.raises(UsageError, match="cannot be used"):
        DecodedTexts(words / "below")
