import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from util.errors import UsageError
from util.own_text_file import OwnTextFile

PIPELINE = {"weights": "abc", "generation": {"max_length": 9}}
DOCUMENTS = ["one\nline", "two  spaces", "ü 三", ""]
TOKENS = [[5, 1], [7, 7, 1], [3], [1]]


def fill(path, **options):
    file = OwnTextFile(path, PIPELINE, **options)
    file.add(DOCUMENTS, TOKENS, ["a", "b\u2028c", "ü", ""])
    return file


def test_what_is_kept_is_read_again(tmp_path):
    path = tmp_path / "new" / "own.jsonl"
    fill(path).finish()
    assert [entry.name for entry in path.parent.iterdir()] == ["own.jsonl"]
    file = OwnTextFile(path, PIPELINE)
    assert [file.tokens(document) for document in DOCUMENTS] == TOKENS
    assert file.missing([*DOCUMENTS, "new", "new", "two spaces"]) == ["new", "two spaces"]
    before = path.read_bytes()
    file.finish()
    assert path.read_bytes() == before
    assert json.loads(before.splitlines()[0])["pipeline"] == PIPELINE


@given(cut=st.integers(0, 400))
def test_an_interrupted_file_gives_its_whole_lines(tmp_path_factory, cut):
    path = tmp_path_factory.mktemp("cut") / "own.jsonl"
    fill(path)
    partial = path.with_name("own.jsonl.partial")
    content = partial.read_bytes()[:cut]
    partial.write_bytes(content)
    whole = max(0, content.count(b"\n") - 1)
    file = OwnTextFile(path, PIPELINE)
    assert file.missing(DOCUMENTS) == DOCUMENTS[whole:]
    file.add(DOCUMENTS[whole:], TOKENS[whole:], [""] * (4 - whole))
    file.finish()
    assert not partial.exists()
    again = OwnTextFile(path, PIPELINE)
    assert [again.tokens(document) for document in DOCUMENTS] == TOKENS


def test_a_file_grows(tmp_path):
    path = tmp_path / "own.jsonl"
    fill(path).finish()
    file = OwnTextFile(path, PIPELINE)
    file.add(["more"], [[9, 1]], ["more"])
    file = OwnTextFile(path, PIPELINE)  # after an interruption
    assert file.missing([*DOCUMENTS, "more"]) == []
    file.finish()
    assert OwnTextFile(path, PIPELINE).tokens("more") == [9, 1]


def test_one_of_several_processes_writes(tmp_path):
    path = tmp_path / "own.jsonl"
    other = fill(path, writes=False)
    other.finish()
    assert list(tmp_path.iterdir()) == []
    assert other.tokens("ü 三") == [3]


@pytest.mark.parametrize("left", ["own.jsonl", "own.jsonl.partial"])
def test_texts_of_another_pipeline_are_refused_or_replaced(tmp_path, left):
    fill(tmp_path / "own.jsonl").finish()
    (tmp_path / "own.jsonl").rename(tmp_path / left)
    changed = {"weights": "other", "generation": {"max_length": 9}, "prefix": "x"}
    with pytest.raises(UsageError, match=r"written otherwise \(prefix, weights\)"):
        OwnTextFile(tmp_path / "own.jsonl", changed)
    file = OwnTextFile(tmp_path / "own.jsonl", changed, replace=True)
    assert file.missing(DOCUMENTS) == DOCUMENTS
    file.add(["x"], [[1]], [""])
    file.finish()
    assert OwnTextFile(tmp_path / "own.jsonl", changed).missing(["x", "ü 三"]) == ["ü 三"]


@pytest.mark.parametrize("content", ["[]\n", "text\n", '{"a": 1}\n', "\ud800\n"])
def test_a_file_of_something_else_is_refused(tmp_path, content):
    (tmp_path / "own.jsonl").write_bytes(content.encode("utf-8", "surrogatepass"))
    with pytest.raises(UsageError, match="does not hold texts that a model wrote"):
        OwnTextFile(tmp_path / "own.jsonl", PIPELINE)
