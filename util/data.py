"""Documents and summaries: hub data sets, local files, the embedded corpus; and their tokens."""

from dataclasses import dataclass
from datetime import date, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

from datasets import Dataset, DownloadMode, Features, Value, load_dataset, load_dataset_builder
from transformers.utils import logging

from util.arguments import DataArguments, ModelArguments
from util.corpus import generate
from util.errors import UsageError
from util.text_files import SUFFIXES, read_rows, shortened

logger = logging.get_logger(__name__)
# Document and summary column, by the last part of a hub id.
_COLUMNS = {
    "cnn_dailymail": ("article", "highlights"),
    "xsum": ("document", "summary"),
    "samsum": ("dialogue", "summary"),
    "dialogsum": ("dialogue", "summary"),
    "multi_news": ("document", "summary"),
    "big_patent": ("description", "abstract"),
    "billsum": ("text", "summary"),
    "gigaword": ("document", "summary"),
    "reddit_tifu": ("documents", "tldr"),
    "arxiv-summarization": ("article", "abstract"),
    "pubmed-summarization": ("article", "abstract"),
    "embedded": ("document", "summary"),
}
# Names that used to be loading scripts, and where the same data lives today.
_HUB_IDS = {
    "cnn_dailymail": "abisee/cnn_dailymail",
    "samsum": "knkarthick/samsum",
    "xsum": "EdinburghNLP/xsum",
}
_KINDS = {list: "a list", dict: "a dictionary"}


def load_split(
    split: str,
    data: DataArguments,
    model: ModelArguments,
    limit: int | None,
    needs_summaries: bool = True,
    group_column: str | None = None,
) -> Dataset:
    """The examples of a split, `{"document": str, "summary": str}`; the first `limit` of them.

    split: "train", "validation" or "test". Local files are read as text, cell by cell, and anew every time;
    of data sets with other types, values become their `str`. Without `needs_summaries` there is no "summary"
    where the data has no such column or nothing in it. group_column: is read as "group". Missing values
    become empty texts; a warning counts these.

    Raises UsageError for a file that is missing, empty or unreadable, for missing columns, for a split
    without examples, and for a value that is a list, a dictionary or bytes.
    """
    if data.dataset_name == "embedded":
        rows = generate(split)
        source = _Source("the embedded corpus", list(rows[0]), rows)
    elif data.dataset_name is not None:
        source = _data_set(split, data, model)
    else:
        name = {"train": data.train_file, "validation": data.validation_file, "test": data.test_file}[split]
        source = _Source(name, *read_rows(name))
    if len(source.rows) == 0:
        raise UsageError(f"{source.name} holds no examples for {split}")
    document, summary = _columns(source.name, source.columns, data, needs_summaries)
    columns = {"document": document} | ({} if summary is None else {"summary": summary})
    if group_column is not None:
        if group_column not in source.columns:
            known = ", ".join(source.columns)
            raise UsageError(f"--group_column {group_column!r}: {source.name} has the columns {known}")
        columns["group"] = group_column
    examples = _texts(source, columns, limit, cached=not data.overwrite_cache)
    if not needs_summaries and summary is not None and not any(examples["summary"]):
        examples, columns = examples.remove_columns("summary"), {"document": document}
    _warn_of_empty(source.name, examples, columns)
    return examples


@dataclass
class _Source:
    """Where examples come from. rows: dictionaries, or a data set."""

    name: str
    columns: list[str]
    rows: list[dict[str, Any]] | Dataset


def _texts(source: _Source, columns: dict[str, str], limit: int | None, cached: bool) -> Dataset:
    """The texts of some columns, new name → column, of the first rows."""
    features = Features({new: Value("string") for new in columns})
    rows = source.rows
    if not isinstance(rows, Dataset):
        texts = {
            new: [
                _text(row.get(column), source.name, column, place) for place, row in enumerate(rows[:limit])
            ]
            for new, column in columns.items()
        }
        return Dataset.from_dict(texts, features=features)
    rows = rows if limit is None else rows.select(range(min(limit, len(rows))))
    return rows.map(
        _texts_of_row,
        with_indices=True,
        fn_kwargs={"name": source.name, "columns": columns},
        features=features,  # or texts are cast back to the old type of a column of the same name
        remove_columns=rows.column_names,
        load_from_cache_file=cached,
        desc="Reading",
    )


def _texts_of_row(row: dict[str, Any], place: int, name: str, columns: dict[str, str]) -> dict[str, str]:
    return {new: _text(row[column], name, column, place) for new, column in columns.items()}


def _text(value: Any, name: str, column: str, place: int) -> str:
    """A cell's text. name: of the file or data set; place: of the row, from 0. Raises UsageError."""
    if value is None:
        return ""
    where = f"{name}: column {column!r}, row {place + 1} holds"
    if not isinstance(value, str | bool | int | float | Decimal | date | time | timedelta):
        kind = _KINDS.get(type(value), type(value).__name__)
        raise UsageError(f"{where} {kind} where a text is expected: {shortened(value)}")
    try:
        str(value).encode()
    except UnicodeEncodeError as error:
        raise UsageError(f"{where} half a surrogate pair: {shortened(value)}") from error
    return str(value)


def _warn_of_empty(name: str, examples: Dataset, columns: dict[str, str]) -> None:
    """One warning for all empty cells."""
    empty = {column: sum(not text.strip() for text in examples[new]) for new, column in columns.items()}
    counts = [f"{count} in column {column!r}" for column, count in empty.items() if count]
    if counts:
        logger.warning(f"{name}: empty texts among {len(examples)} examples: {', '.join(counts)}")


def tokenize(examples: Dataset, tokenizer, data: DataArguments, max_target_length: int) -> Dataset:
    """`input_ids`, `attention_mask` and, of examples with summaries, `labels`, cut to the limits."""
    prefix = data.source_prefix or ""

    def encode(batch: dict) -> dict:
        inputs = tokenizer(
            [prefix + document for document in batch["document"]],
            max_length=data.max_source_length,
            truncation=True,
        )
        if "summary" not in batch:
            return dict(inputs)
        targets = tokenizer(text_target=batch["summary"], max_length=max_target_length, truncation=True)
        return {**inputs, "labels": targets["input_ids"]}

    return examples.map(
        encode,
        batched=True,
        num_proc=data.preprocessing_num_workers,
        remove_columns=examples.column_names,
        load_from_cache_file=not data.overwrite_cache,
        desc="Tokenizing",
    )


def _data_set(split: str, data: DataArguments, model: ModelArguments) -> _Source:
    """Of a hub, or of a folder. A folder's files may have been edited since they were read the last time,
    whatever their dates say: nothing of theirs is cached."""
    name = _HUB_IDS.get(data.dataset_name, data.dataset_name)
    options = {"cache_dir": model.cache_dir, "token": model.token}
    try:
        if Path(name).is_dir():
            builder = load_dataset_builder(name, data.dataset_config_name, **options)
            files = (builder.config.data_files or {}).get(split, [])
            if files and all(Path(file).suffix in SUFFIXES for file in files):
                return _together(data.dataset_name, [read_rows(file) for file in files])
            options |= {"download_mode": DownloadMode.FORCE_REDOWNLOAD, "keep_in_memory": True}
        examples = load_dataset(name, data.dataset_config_name, split=split, **options)
    except UsageError:
        raise
    except (OSError, ValueError, RuntimeError) as error:  # not found, not reachable, no such split
        raise UsageError(f"cannot load split {split!r} of data set {name!r}: {_first_line(error)}") from error
    return _Source(data.dataset_name, examples.column_names, examples)


def _together(name: str, parts: list[tuple[list[str], list[dict[str, Any]]]]) -> _Source:
    columns = dict.fromkeys(column for columns, _ in parts for column in columns)
    return _Source(name, list(columns), [row for _, rows in parts for row in rows])


def _columns(
    name: str, present: list[str], data: DataArguments, needs_summaries: bool
) -> tuple[str, str | None]:
    """Document and summary column: as told, as known for the data set, or the first known pair present. Where
    no summaries are needed, a known document column will do, and a missing summary column is None."""
    known = _COLUMNS.get(Path(name).name)
    if known is None:
        pairs = [pair for pair in dict.fromkeys(_COLUMNS.values()) if set(pair) <= set(present)]
        if not pairs and not needs_summaries:
            pairs = [pair for pair in _COLUMNS.values() if pair[0] in present]
        known = pairs[0] if pairs else (None, None)
    chosen = (data.text_column or known[0], data.summary_column or known[1])
    if not needs_summaries and chosen[1] not in present:
        return _columns_there(name, present, {"--text_column": chosen[0]})[0], None
    return _columns_there(name, present, {"--text_column": chosen[0], "--summary_column": chosen[1]})


def _columns_there(name: str, present: list[str], chosen: dict[str, str | None]) -> tuple[str, ...]:
    """The columns, by the flag that names each. Raises UsageError for one that is missing."""
    for flag, column in chosen.items():
        if column is None:
            raise UsageError(f"{name}: which column is it? give {flag}; there are: {', '.join(present)}")
        if column not in present:
            raise UsageError(f"{name}: no column {column!r} ({flag}); there are: {', '.join(present)}")
    return tuple(chosen.values())


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n")[0]
