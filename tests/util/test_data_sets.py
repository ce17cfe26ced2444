"""Data sets that are not files of text: columns of any type, folders, and files edited unseen."""

import datetime
import json
import os
from decimal import Decimal

import pytest
from datasets import Dataset

from util import data as data_module
from util.arguments import DataArguments
from util.calibration_data import Draw, calibration_texts
from util.data import has_split, load_split
from util.errors import UsageError


def load(monkeypatch, columns, limit=None):
    """As if a hub had a data set of these columns."""
    monkeypatch.setattr(data_module, "load_dataset", lambda *_, **__: Dataset.from_dict(columns))
    data = DataArguments(dataset_name="some/where", overwrite_cache=True)
    return load_split("train", data.source(), limit).to_list()


@pytest.mark.parametrize(
    "values",
    [
        [7, -1],
        [1.5, 2.0],
        [True, False],
        [datetime.date(2024, 1, 5), datetime.date(1999, 12, 31)],
        [datetime.datetime(2024, 1, 5, 12, 30), datetime.datetime(1999, 12, 31)],
        [datetime.time(12, 30), datetime.time(0, 0)],
        [Decimal("1.10"), Decimal("2.50")],
        ["N/A", "007"],
    ],
    ids=lambda values: type(values[0]).__name__,
)
@pytest.mark.parametrize("column", ["document", "summary"])
def test_values_become_their_text(monkeypatch, column, values):
    other = {"document": "summary", "summary": "document"}[column]
    rows = load(monkeypatch, {column: [*values, None], other: ["x", "y", "z"]})
    assert [row[column] for row in rows] == [*map(str, values), ""]


@pytest.mark.parametrize("value", [["x"], {"text": "x"}, b"x"], ids=str)
def test_nested_values_and_bytes_are_refused(monkeypatch, value):
    columns = {"document": ["a", "b"], "summary": [None, value]}
    with pytest.raises(UsageError, match=r"some/where: column 'summary', row 2 holds .* text is expected"):
        load(monkeypatch, columns)
    assert load(monkeypatch, columns, limit=1) == [{"document": "a", "summary": ""}]


@pytest.mark.parametrize("kind", ["file", "folder"])
@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_an_edited_file_with_its_old_time_gives_the_new_data(tmp_path, kind, suffix):
    file = tmp_path / f"train.{suffix}"
    flags = {"dataset_name": str(tmp_path)} if kind == "folder" else {"train_file": str(file)}
    if (kind, suffix) == ("file", "parquet"):
        pytest.skip("not a file type of flags")
    for texts in (["one", "two"], ["six", "ten"]):
        rows = Dataset.from_dict({"document": texts, "summary": texts})
        {"csv": rows.to_csv, "jsonl": rows.to_json, "parquet": rows.to_parquet}[suffix](file)
        os.utime(file, (1_000_000_000, 1_000_000_000))
        examples = load_split("train", DataArguments(**flags).source(), None)
        assert examples["document"] == texts
        assert examples["summary"] == texts


def test_files_of_a_folder_are_read_as_text(tmp_path):
    (tmp_path / "validation.csv").write_text("document,summary\n007,N/A\n")
    (tmp_path / "train.csv").write_text("document,summary\n1e5,True\n")
    data = DataArguments(dataset_name=str(tmp_path))
    for split, row in (
        ("validation", {"document": "007", "summary": "N/A"}),
        ("train", {"document": "1e5", "summary": "True"}),
    ):
        assert load_split(split, data.source(), None).to_list() == [row]
    with pytest.raises(UsageError, match="'test'"):
        load_split("test", data.source(), None)


@pytest.mark.parametrize("test", [True, False])
def test_a_data_set_without_a_test_split_is_checked_on_other_validation_examples(tmp_path, test):
    for split in ("train", "validation", *(["test"] if test else [])):
        rows = [{"document": f"{split} document {number}", "summary": "short"} for number in range(12)]
        (tmp_path / f"{split}.json").write_text("\n".join(map(json.dumps, rows)))
    source = DataArguments(dataset_name=str(tmp_path)).source()
    assert [has_split(split, source) for split in ("train", "validation", "test")] == [True, True, test]
    texts = calibration_texts(Draw(8, None, seed=1), source, None)
    drawn, checked = (texts[name]["document"] for name in ("calibration", "held_out"))
    assert len(drawn) == 8
    assert len(checked) == (12 if test else 4)
    assert not set(drawn) & set(checked)
    assert all(text.startswith("test" if test else "validation") for text in checked)


def test_the_embedded_corpus_and_files_name_their_splits():
    assert has_split("test", DataArguments(dataset_name="embedded").source())
    assert not has_split("test", DataArguments(validation_file="rows.json").source())
