"""CSV and JSON files read as text: every cell as it stands in the file, none taken for a number or a gap."""

import codecs
import csv
import io
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from util.errors import UsageError

SUFFIXES = (".json", ".jsonl", ".csv")
_SPACE = re.compile(r"\s*")
# Numbers stay as they are written: 1e5, 1.10, NaN.
_DECODER = json.JSONDecoder(parse_float=str, parse_int=str, parse_constant=str, strict=False)
_WRITTEN = {True: "true", False: "false"}


def read_rows(path: str) -> tuple[list[str], list[dict[str, Any]]]:
    """Column names and rows of a file. Cells are texts; in JSON also None for null, lists and dictionaries.

    CSV is comma-separated with a header. JSON is a list of objects, objects one after another (JSON lines),
    or an object whose "data" is a list of them; what is no object becomes a column "text".

    All of it is held in memory. Raises UsageError for a file that is missing, empty, of another type, not
    UTF-8, or malformed.
    """
    file = Path(path)
    if not file.is_file():
        raise UsageError(f"{path}: no such file")
    if file.suffix not in SUFFIXES:
        raise UsageError(f"{path}: unknown file type {file.suffix!r}; known: {', '.join(SUFFIXES)}")
    try:
        content = file.read_bytes().removeprefix(codecs.BOM_UTF8)
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})") from error
    if not content.strip():
        raise UsageError(f"{path}: the file is empty")
    try:
        _check_encoding(content)
        return _csv_rows(content) if file.suffix == ".csv" else _json_rows(content)
    except (json.JSONDecodeError, _MalformedError) as error:
        raise UsageError(f"{path}: cannot be read as {file.suffix[1:]}: {error}") from error


class _MalformedError(ValueError):
    """What is wrong with a file, without its name."""


def _check_encoding(content: bytes) -> None:
    for number, line in enumerate(io.BytesIO(content), start=1):
        try:
            line.decode()
        except UnicodeDecodeError as error:
            raise _MalformedError(f"line {number} is not UTF-8") from error


def _csv_rows(content: bytes) -> tuple[list[str], list[dict[str, str]]]:
    csv.field_size_limit(sys.maxsize)  # documents may be long
    reader = csv.reader(io.TextIOWrapper(io.BytesIO(content), "utf-8", newline=""), strict=True)
    lines = _csv_lines(reader)
    header = [name.strip() for name in next((cells for cells in lines if any(map(str.strip, cells))), [])]
    for name in header:
        if name and header.count(name) > 1:
            raise _MalformedError(f"two columns are called {name!r}")
    rows = []
    for cells in lines:
        if len(cells) == 1 < len(header) and not cells[0].strip():
            continue  # a blank line with spaces
        if len(cells) != len(header):
            raise _MalformedError(
                f"row {len(rows) + 1}, up to line {reader.line_num}, has {len(cells)} cells, the header "
                f"{len(header)}: {shortened(','.join(cells))}"
            )
        rows.append(dict(zip(header, cells, strict=True)))
    return header, rows


def _csv_lines(reader) -> Iterator[list[str]]:
    """The lines that are not blank."""
    try:
        yield from (cells for cells in reader if cells)
    except csv.Error as error:
        reason = str(error)
        if reason == "unexpected end of data":
            reason = "a quoted cell does not end"
        raise _MalformedError(f"line {reader.line_num}: {reason}") from error


def _json_rows(content: bytes) -> tuple[list[str], list[dict[str, Any]]]:
    try:  # by lines, since a text of all of the file takes up to four bytes a character
        values = [value for line in io.BytesIO(content) for value in _json_values(line.decode())]
    except json.JSONDecodeError:  # objects of several lines, or an error whose line is then named
        values = list(_json_values(content.decode()))
    if len(values) == 1 and isinstance(values[0], dict) and isinstance(values[0].get("data"), list):
        values = values[0]["data"]
    elif len(values) == 1 and isinstance(values[0], list):
        values = values[0]
    rows = [value if isinstance(value, dict) else {"text": value} for value in values]
    for row in rows:
        row.update({name: _WRITTEN[value] for name, value in row.items() if isinstance(value, bool)})
    return list(dict.fromkeys(name for row in rows for name in row)), rows


def _json_values(text: str) -> Iterator[Any]:
    place = _SPACE.match(text).end()
    while place < len(text):
        try:
            value, place = _DECODER.raw_decode(text, place)
        except RecursionError as error:
            raise _MalformedError("nested too deeply") from error
        yield value
        place = _SPACE.match(text, place).end()


def shortened(value: Any) -> str:
    """A value's Python form on one line, not too long for a message."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "…"
