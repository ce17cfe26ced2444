import json
import os

import pytest

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
