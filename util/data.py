"""Documents and summaries, of any task: hub data sets, local files, the embedded corpus."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import date, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

from datasets import (
    Dataset,
    DownloadMode,
    Features,
    List,
    Value,
    get_dataset_split_names,
    load_dataset,
    load_dataset_builder,
)
from transformers.utils import logging

from util.corpus import SPLIT_SIZES
from util.errors import UsageError
from util.tasks import Task
from util.text_files import SUFFIXES, read_rows, shortened

logger = logging.get_logger(__name__)
# Names that used to be loading scripts, and where the same data lives today.
_HUB_IDS = {
    "cnn_dailymail": "abisee/cnn_dailymail",
    "samsum": "knkarthick/samsum",
    "xsum": "EdinburghNLP/xsum",
    "multi_news": "alexfabbri/multi_news",
    "big_patent": "NortheasternUniversity/big_patent",
    "wmt15": "wmt/wmt15",
    "iwslt2017": "IWSLT/iwslt2017",
    "squad": "rajpurkar/squad",
    "squad_v2": "rajpurkar/squad_v2",
    "xquad": "google/xquad",
}
_KINDS = {list: "a list", dict: "a dictionary"}


@dataclass(frozen=True)
class DataSource:
    """Where examples come from, and what is made of their rows.

    task: of which they are examples. columns: flag → the column that it names, None where it is found without
    it; of the sources, and last of the target. name: a hub id, a folder, or "embedded" for the corpus made
    here; None for the files. configuration: of a hub data set. files: split → file. hub: "cache_dir" and
    "token", as `load_dataset` takes them. cached: whether a hub's examples that were made before will do.
    """

    task: Task
    columns: Mapping[str, str | None]
    name: str | None = None
    configuration: str | None = None
    files: Mapping[str, str] = field(default_factory=dict)
    hub: Mapping[str, str | None] = field(default_factory=dict)
    cached: bool = True


def load_split(
    split: str,
    data: DataSource,
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
    if data.name == "embedded":
        size = SPLIT_SIZES[split]
        rows = data.task.embedded(split, size if limit is None else min(limit, size))
        source = _Source("the embedded corpus", list(rows[0]), rows)
    elif data.name is not None:
        source = _data_set(split, data)
    else:
        source = _Source(data.files[split], *read_rows(data.files[split]))
    if len(source.rows) == 0:
        raise UsageError(f"{source.name} holds no examples for {split}")
    source = _unfolded(source, data.task.nested)
    reader = _Reader(source.name, data.task, *_columns(source, data, needs_summaries), group_column)
    if group_column is not None and group_column not in source.columns:
        known = ", ".join(source.columns)
        raise UsageError(f"--group_column {group_column!r}: {source.name} has the columns {known}")
    examples = _texts(source.rows, reader, limit, cached=data.cached)
    if not needs_summaries and reader.target is not None and not any(examples["summary"]):
        examples, reader = examples.remove_columns("summary"), replace(reader, target=None)
    _warn_of_empty(examples, reader)
    return examples


def has_split(split: str, data: DataSource) -> bool:
    """Whether the data has a split of that name; also where that cannot be told, as `load_split` then says
    why."""
    if data.name is None or data.name == "embedded":
        return split in (data.files if data.name is None else SPLIT_SIZES)
    name = _HUB_IDS.get(data.name, data.name)
    try:
        names = get_dataset_split_names(name, data.configuration, token=data.hub.get("token"))
    except (OSError, ValueError, RuntimeError):
        return True
    return split in names


@dataclass
class _Source:
    """Where examples come from. rows: dictionaries, or a data set."""

    name: str
    columns: list[str]
    rows: list[dict[str, Any]] | Dataset


def _unfolded(source: _Source, nested: str | None) -> _Source:
    """Of dictionaries in a column, the entries as columns of their own."""
    if nested not in source.columns:
        return source
    if isinstance(source.rows, Dataset):
        rows = source.rows.flatten()
        names = {name: name.removeprefix(f"{nested}.") for name in rows.column_names}
        rows = rows.rename_columns({old: new for old, new in names.items() if old != new})
        return _Source(source.name, rows.column_names, rows)
    for place, row in enumerate(source.rows):
        if not isinstance(row.get(nested), dict):
            where = f"{source.name}: column {nested!r}, row {place + 1}"
            raise UsageError(f"{where} holds no dictionary of texts: {shortened(row.get(nested))}")
    rows = [{**row, **row[nested]} for row in source.rows]
    columns = dict.fromkeys(name for row in rows for name in row if name != nested)
    return _Source(source.name, list(columns), rows)


@dataclass(frozen=True)
class _Reader:
    """From a row's cells to an example. sources, target, group: columns; no target, no summary."""

    name: str
    task: Task
    sources: tuple[str, ...]
    target: str | None
    group: str | None = None

    def __call__(self, row: dict[str, Any], place: int) -> dict[str, Any]:
        """place: of the row, from 0. Raises UsageError for cells that hold no text."""
        task = self.task
        example = {"document": task.source.format(*(self._text(row, name, place) for name in self.sources))}
        if self.target is not None:
            try:
                value = task.target(row.get(self.target))
            except ValueError as error:
                raise UsageError(f"{self.name}: column {self.target!r}, row {place + 1} {error}") from error
            several = value if isinstance(value, list) and task.several else [value]
            texts = [self._text({self.target: text}, self.target, place) for text in several]
            example["summary"] = texts[0]
            if task.several:
                example["references"] = texts
        if self.group is not None:
            example["group"] = self._text(row, self.group, place)
        return example

    def _text(self, row: dict[str, Any], column: str, place: int) -> str:
        return _text(row.get(column), self.name, column, place)

    @property
    def features(self) -> Features:
        """Of examples."""
        names = ["document", *(["summary"] if self.target else []), *(["group"] if self.group else [])]
        several = {"references": List(Value("string"))} if self.target and self.task.several else {}
        return Features({name: Value("string") for name in names} | several)


def _texts(rows: list[dict[str, Any]] | Dataset, reader: _Reader, limit: int | None, cached: bool) -> Dataset:
    """The examples of the first rows."""
    features = reader.features
    if not isinstance(rows, Dataset):
        examples = [reader(row, place) for place, row in enumerate(rows[:limit])]
        return Dataset.from_dict(
            {name: [each[name] for each in examples] for name in features}, features=features
        )
    rows = rows if limit is None else rows.select(range(min(limit, len(rows))))
    return rows.map(
        reader,
        with_indices=True,
        features=features,  # or texts are cast back to the old type of a column of the same name
        remove_columns=rows.column_names,
        load_from_cache_file=cached,
        desc="Reading",
    )


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


def _warn_of_empty(examples: Dataset, reader: _Reader) -> None:
    """One warning for all empty texts."""
    columns = {"document": " and ".join(reader.sources), "summary": reader.target, "group": reader.group}
    empty = {
        column: sum(not text.strip() for text in examples[name])
        for name, column in columns.items()
        if column is not None
    }
    counts = [f"{count} in column {column!r}" for column, count in empty.items() if count]
    if counts:
        logger.warning(f"{reader.name}: empty texts among {len(examples)} examples: {', '.join(counts)}")


def _data_set(split: str, data: DataSource) -> _Source:
    """Of a hub, or of a folder. A folder's files may have been edited since they were read the last time,
    whatever their dates say: nothing of theirs is cached."""
    name, options = _HUB_IDS.get(data.name, data.name), dict(data.hub)
    try:
        if Path(name).is_dir():
            builder = load_dataset_builder(name, data.configuration, **options)
            files = (builder.config.data_files or {}).get(split, [])
            if files and all(Path(file).suffix in SUFFIXES for file in files):
                return _together(data.name, [read_rows(file) for file in files])
            options |= {"download_mode": DownloadMode.FORCE_REDOWNLOAD, "keep_in_memory": True}
        examples = load_dataset(name, data.configuration, split=split, **options)
    except UsageError:
        raise
    except (OSError, ValueError, RuntimeError) as error:  # not found, not reachable, no such split
        raise UsageError(f"cannot load split {split!r} of data set {name!r}: {_first_line(error)}") from error
    return _Source(data.name, examples.column_names, examples)


def _together(name: str, parts: list[tuple[list[str], list[dict[str, Any]]]]) -> _Source:
    columns = dict.fromkeys(column for columns, _ in parts for column in columns)
    return _Source(name, list(columns), [row for _, rows in parts for row in rows])


def _columns(source: _Source, data: DataSource, needs_target: bool) -> tuple[tuple[str, ...], str | None]:
    """Columns of the sources and of the target: as told, as known for the data set, or the first known ones
    that are present. Where no target is needed, known sources will do, and a missing target is None."""
    known, present = data.task.columns.get(Path(source.name).name), source.columns
    told = data.columns
    if known is None:
        all_known = list(dict.fromkeys(data.task.columns.values()))
        fitting = [names for names in all_known if set(names) <= set(present)]
        if not fitting and not needs_target:
            fitting = [names for names in all_known if set(names[:-1]) <= set(present)]
        known = fitting[0] if fitting else (None,) * len(told)
    chosen = {flag: name or usual for (flag, name), usual in zip(told.items(), known, strict=True)}
    *sources, (_, target) = chosen.items()
    if not needs_target and target not in present:
        return _columns_there(source.name, present, dict(sources)), None
    *names, target = _columns_there(source.name, present, chosen)
    return tuple(names), target


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
