import json

import pytest

from util.arguments import DataArguments
from util.corpus import generate
from util.data import load_split
from util.errors import UsageError
from util.tokenizer import train_tokenizer
from util.tokens import Tokenization, tokenize

ROWS = [
    {"dialogue": "a b", "summary": "c"},
    {"dialogue": None, "summary": "d"},
    {"dialogue": "", "summary": None},
]


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return str(path)


def json_lines(rows):
    return "\n".join(json.dumps(row) for row in rows)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.json", json_lines(ROWS)),
        ("a.jsonl", json_lines(ROWS)),
        ("array.json", json.dumps(ROWS)),
        ("a.csv", "dialogue,summary\na b,c\n,d\n,\n"),
    ],
)
def test_local_files(tmp_path, name, text):
    data = DataArguments(train_file=write(tmp_path / name, text))
    examples = load_split("train", data.source(), limit=None)
    assert examples.to_list() == [
        {"document": "a b", "summary": "c"},
        {"document": "", "summary": "d"},
        {"document": "", "summary": ""},
    ]
    assert len(load_split("train", data.source(), limit=2)) == 2


def test_columns_can_be_named(tmp_path):
    file = write(tmp_path / "a.json", json_lines([{"x": 1, "y": 2.5, "summary": "no"}]))
    data = DataArguments(validation_file=file, text_column="x", summary_column="y")
    assert load_split("validation", data.source(), None).to_list() == [{"document": "1", "summary": "2.5"}]


@pytest.mark.parametrize(
    ("name", "text", "columns", "message"),
    [
        ("a.json", "", {}, "the file is empty"),
        ("a.json", " \n", {}, "the file is empty"),
        ("a.csv", "document,summary\n", {}, "holds no examples"),
        ("a.json", "{not json", {}, "cannot be read as json"),
        ("a.txt", "hello", {}, "unknown file type '.txt'; known: .json"),
        ("a.json", json_lines([{"x": "1", "y": "2"}]), {}, "give --text_column; there are: x, y"),
        (
            "a.json",
            json_lines(ROWS),
            {"text_column": "article"},
            "no column 'article' .*there are: dialogue, summary",
        ),
    ],
)
def test_bad_files_are_named(tmp_path, name, text, columns, message):
    data = DataArguments(train_file=write(tmp_path / name, text), **columns)
    with pytest.raises(UsageError, match=message):
        load_split("train", data.source(), None)


def test_missing_file_is_named():
    with pytest.raises(UsageError, match=r"nowhere\.json: no such file"):
        load_split("train", DataArguments(train_file="nowhere.json").source(), None)


def test_an_unreachable_data_set_is_named():
    with pytest.raises(UsageError, match="cannot load split 'train' of data set 'abisee/cnn_dailymail'"):
        load_split("train", DataArguments(dataset_name="cnn_dailymail").source(), None)


def test_embedded_corpus():
    data = DataArguments(dataset_name="embedded", dataset_config_name="3.0.0")
    assert load_split("test", data.source(), 7).to_list() == generate("test", 7)


def test_tokens_are_prefixed_and_cut():
    examples = load_split("test", DataArguments(dataset_name="embedded").source(), 5)
    tokenizer = train_tokenizer([*examples["document"], *examples["summary"]], 300)
    how = Tokenization("summarize: ", source_length=20, target_length=9, generation_length=9)
    for example, row in zip(examples, tokenize(examples, tokenizer, how, max_target_length=6), strict=True):
        assert row["input_ids"] == [*tokenizer("summarize: " + example["document"]).input_ids[:19], 1]
        assert row["labels"] == [*tokenizer(example["summary"]).input_ids[:5], 1]
