"""Files as text: every cell as it stands there, in whatever shape the file comes."""

import csv
import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from util.arguments import DataArguments
from util.data import load_split
from util.errors import UsageError
from util.text_files import read_rows

ROWS = [{"document": "a", "summary": "b"}, {"document": "c", "summary": "d"}]
CELLS = [
    *"7 007 -0 1.10 1e5 1E+05 3. 0x1F 1,234.50 1_000 True false N/A NA #N/A null None nan NaN inf".split(),
    *["2024-01-05", "12:30", " padded ", "two\nlines", 'a "quoted" word', "tab\there", "100%", "١٢٣"],
]
cells = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))


def write(path, text, encoding="utf-8"):
    path.write_bytes(text.encode(encoding))
    return str(path)


def load(file, **flags):
    return load_split("train", DataArguments(train_file=file, **flags).source(), None).to_list()


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("others", [[], ["text"], ["12"], ["1.5"], ["", "12"]], ids=str)
def test_a_csv_cell_is_the_text_that_is_written(tmp_path, cell, others):
    out = io.StringIO()
    csv.writer(out).writerows([("document", "summary"), *(("x", text) for text in [*others, cell])])
    rows = load(write(tmp_path / "a.csv", out.getvalue()))
    assert [row["summary"] for row in rows] == [*others, cell]


@given(rows=st.lists(st.tuples(cells, cells), min_size=1, max_size=4))
def test_csv_reads_what_was_written(tmp_path_factory, rows):
    out = io.StringIO()
    csv.writer(out, quoting=csv.QUOTE_ALL).writerows([("document", "summary"), *rows])
    _, read = read_rows(write(tmp_path_factory.mktemp("csv") / "a.csv", out.getvalue()))
    assert [(row["document"], row["summary"]) for row in read] == rows


@pytest.mark.parametrize(
    ("written", "text"),
    [
        ("7", "7"), ("-0", "-0"), ("1.10", "1.10"), ("1e5", "1e5"), ("1E+05", "1E+05"), ("true", "true"),
        ("false", "false"), ("null", ""), ('"null"', "null"), ('"007"', "007"), ('"N/A"', "N/A"),
        ("12345678901234567890123", "12345678901234567890123"), ("NaN", "NaN"),
        ('"2024-01-05"', "2024-01-05"),
        ('"2024-01-05T10:00:00Z"', "2024-01-05T10:00:00Z"), ('"\\u00e9"', "é"),
        ('"a\\u2028b"', "a\u2028b"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("others", [[], ['"text"'], ["12"], ["1.5", "null"], ["true"]], ids=str)
def test_a_json_value_is_the_text_that_is_written(tmp_path, written, text, others):
    lines = "\n".join(f'{{"document": "x", "summary": {value}}}' for value in [*others, written])
    rows = load(write(tmp_path / "a.jsonl", lines))
    assert rows[-1] == {"document": "x", "summary": text}


@pytest.mark.parametrize(
    "text",
    [
        "\n".join(map(json.dumps, ROWS)),
        "\n\n".join(map(json.dumps, ROWS)) + "\n\n",
        "\r\n".join(map(json.dumps, ROWS)),
        "".join(map(json.dumps, ROWS)),
        "\n".join(json.dumps(row, indent=2) for row in ROWS),
        json.dumps(ROWS),
        json.dumps(ROWS, indent=2),
        json.dumps({"data": ROWS}),
        json.dumps({"version": "1.0", "data": ROWS}, indent=2),
        "\ufeff" + json.dumps(ROWS),
        json.dumps(ROWS[0]) + "\n" + json.dumps(ROWS[1], indent=2),
    ],
)
def test_shapes_of_json(tmp_path, text):
    assert load(write(tmp_path / "a.json", text)) == ROWS


def test_a_list_of_texts_is_documents(tmp_path):
    file = write(tmp_path / "a.json", json.dumps(["a", "b"]))
    data = DataArguments(test_file=file)
    rows = load_split("test", data.source(), None, needs_summaries=False).to_list()
    assert rows == [{"document": "a"}, {"document": "b"}]


@pytest.mark.parametrize(
    "text",
    [
        "document,summary\na,b\nc,d\n",
        "\ufeffdocument,summary\na,b\nc,d",
        "document,summary\r\na,b\r\nc,d\r\n",
        "document,summary\ra,b\rc,d\r",
        '"document","summary"\n"a","b"\n"c","d"\n',
        "\n document , summary\n\na,b\n\n   \nc,d\n\n",
        ",document,summary\n0,a,b\n1,c,d\n",
    ],
)
def test_shapes_of_csv(tmp_path, text):
    assert load(write(tmp_path / "a.csv", text)) == ROWS


def test_long_cells_are_read(tmp_path):
    document = "word " * 200_000
    assert load(write(tmp_path / "a.csv", f"document,summary\n{document},b\n"))[0]["document"] == document


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "document,summary\na,b\nc,d,e\n", r"row 2, up to line 3, has 3 cells, the header 2: 'c,"),
        ("a.csv", 'document,summary\n"a\nb",c\nd\n', r"row 2, up to line 4, has 1 cells"),
        ("a.csv", 'document,summary\na,"b\nc,d\n', r"a quoted cell does not end$"),
        ("a.csv", 'document,summary\n"a"b,c\n', r"line 2: "),
        ("a.csv", "document,summary,summary\na,b,c\n", "two columns are called 'summary'"),
        ("a.csv", "document;summary\na;b\n", "give --text_column; there are: document;summary"),
        ("a.csv", "\ufeff\n\n", "the file is empty"),
        ("a.json", '{"document": "a", "summary": "b"}\n{"document": "c", ', "read as json: .*line 2"),
        ("a.json", "[" * 100_000, "nested too deeply"),
        ("a.json", "[]", "holds no examples"),
        ("a.json", "[1, 2]", "which column is it"),
        ("a.json", '{"document": "\\ud83d", "summary": ""}', "row 1 holds half a surrogate"),
    ],
)  # fmt: skip
def test_broken_files_are_one_line(tmp_path, name, text, message):
    file = write(tmp_path / name, text)
    with pytest.raises(UsageError, match=message) as caught:
        load(file)
    assert str(caught.value).startswith(file)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("encoding", "line"), [("latin-1", 2), ("utf-16", 1)])
@pytest.mark.parametrize("name", ["a.csv", "a.json"])
def test_other_encodings_are_named(tmp_path, name, encoding, line):
    with pytest.raises(UsageError, match=f"line {line} is not UTF-8$"):
        load(write(tmp_path / name, "document,summary\né,b\n", encoding))


@pytest.mark.parametrize("value", [["x", "y"], {"text": "x"}, [], [1, 2]], ids=str)
@pytest.mark.parametrize("column", ["document", "summary"])
def test_nested_values_are_one_error(tmp_path, column, value):
    rows = [*ROWS, {**ROWS[0], column: value}]
    file = write(tmp_path / "a.json", json.dumps(rows))
    kind = "a list" if isinstance(value, list) else "a dictionary"
    with pytest.raises(UsageError, match=rf"a\.json: column '{column}', row 3 holds {kind} where a text"):
        load(file)
    assert len(load_split("train", DataArguments(train_file=file).source(), 2)) == 2


def test_nested_values_elsewhere_do_not_matter(tmp_path):
    rows = [{**row, "tags": ["x"], "meta": {"id": 1}} for row in ROWS]
    assert load(write(tmp_path / "a.json", json.dumps(rows))) == ROWS


def test_empty_cells_are_counted_in_one_warning(tmp_path, caplog):
    file = write(tmp_path / "a.csv", "dialogue,summary\na,\n ,b\n,\nc,d\n")
    load(file)
    warning = "empty texts among 4 examples: 2 in column 'dialogue', 2 in column 'summary'"
    assert [record.getMessage() for record in caplog.records] == [f"{file}: {warning}"]
    caplog.clear()
    load(write(tmp_path / "b.csv", "dialogue,summary\nNone,N/A\n"))
    assert not caplog.records
