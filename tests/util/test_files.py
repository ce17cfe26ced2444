import gzip
import json
import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from util.files import read_json, whole_folder_contents, write_json, write_text


def test_a_failed_write_leaves_the_old_file_and_no_rest(tmp_path, monkeypatch):
    file = tmp_path / "results.json"
    write_json(file, {"old": 1})

    def no_space(*_):
        raise OSError("no space left")

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(OSError, match="no space"):
        write_text(file, "new")
    assert read_json(file) == {"old": 1}
    assert list(tmp_path.iterdir()) == [file]


def test_json_is_strict_and_readable(tmp_path):
    write_json(tmp_path / "a.json", {"λ": float("nan"), "layers": [1, float("nan")]})
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert "NaN" not in text
    assert json.loads(text) == {"λ": None, "layers": [1, None]}
    assert read_json(tmp_path / "b.json", default=3) == 3


def test_a_folder_is_filled_at_the_end_or_not_at_all(tmp_path):
    (tmp_path / "model").write_text("old")

    def fill_half():
        with whole_folder_contents(tmp_path) as scratch:
            (scratch / "model").write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fill_half()
    assert (tmp_path / "model").read_text() == "old"
    with whole_folder_contents(tmp_path) as scratch:
        (scratch / "model").write_text("new")
        (scratch / "config").write_text("new")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config", "model"]
    assert (tmp_path / "model").read_text() == "new"


PLAIN = st.one_of(st.integers(), st.floats(allow_nan=False), st.text(), st.booleans(), st.none())
VALUES = st.recursive(PLAIN, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=20)


@given(VALUES)
def test_what_is_written_is_read(value):
    with tempfile.TemporaryDirectory() as folder:
        for name in ("a.json", "a.json.gz"):
            write_json(Path(folder) / name, value)
            assert read_json(Path(folder) / name) == value


def test_lists_of_plain_values_stand_on_one_line(tmp_path):
    write_json(tmp_path / "a.json", {"losses": [0.5, None, "x"], "rows": [[1, 2], []]})
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert '  "losses": [0.5, null, "x"],\n' in text
    assert "    [1, 2],\n    []\n" in text


def test_compressed_files_are_the_same_bytes_each_time(tmp_path):
    write_json(tmp_path / "a.json.gz", [1, 2])
    write_json(tmp_path / "b.json.gz", [1, 2])
    assert (tmp_path / "a.json.gz").read_bytes() == (tmp_path / "b.json.gz").read_bytes()
    assert gzip.decompress((tmp_path / "a.json.gz").read_bytes()) == b"[1, 2]\n"
