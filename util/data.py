"""Documents and summaries: hub data sets, local files, the embedded corpus; and their tokens."""

from pathlib import Path

from datasets import Dataset, load_dataset
from datasets.exceptions import DatasetGenerationError

from util.arguments import DataArguments, ModelArguments
from util.corpus import generate
from util.errors import UsageError

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
_LOADERS = {".json": "json", ".jsonl": "json", ".csv": "csv"}


def load_split(
    split: str, data: DataArguments, model: ModelArguments, limit: int | None, needs_summaries: bool = True
) -> Dataset:
    """The examples of a split, `{"document": str, "summary": str}`; the first `limit` of them.

    split: "train", "validation" or "test". Without `needs_summaries` there is no "summary" where the data has
    no such column or nothing in it. Missing values become empty texts. Raises UsageError for a file that is
    missing, empty or unreadable, for missing columns, and for a split without examples.
    """
    if data.dataset_name == "embedded":
        name, examples = "the embedded corpus", Dataset.from_list(generate(split))
    elif data.dataset_name is not None:
        name, examples = data.dataset_name, _load_hub(split, data, model)
    else:
        name = {"train": data.train_file, "validation": data.validation_file, "test": data.test_file}[split]
        examples = _load_file(name, model.cache_dir)
    if len(examples) == 0:
        raise UsageError(f"{name} holds no examples for {split}")
    if limit is not None:
        examples = examples.select(range(min(limit, len(examples))))
    document, summary = _columns(name, examples.column_names, data, needs_summaries)
    columns = {"document": document} | ({} if summary is None else {"summary": summary})
    examples = examples.map(
        lambda row: {name: _as_text(row[column]) for name, column in columns.items()},
        remove_columns=examples.column_names,
        load_from_cache_file=not data.overwrite_cache,
        desc=f"Reading {split}",
    )
    if not needs_summaries and summary is not None and not any(examples["summary"]):
        return examples.remove_columns("summary")
    return examples


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


def _as_text(value) -> str:
    return "" if value is None else str(value)


def _load_hub(split: str, data: DataArguments, model: ModelArguments) -> Dataset:
    hub_id = _HUB_IDS.get(data.dataset_name, data.dataset_name)
    try:
        return load_dataset(
            hub_id,
            data.dataset_config_name,
            split=split,
            cache_dir=model.cache_dir,
            token=model.token,
        )
    except (OSError, ValueError, RuntimeError) as error:  # not found, not reachable, no such split
        raise UsageError(
            f"cannot load split {split!r} of data set {hub_id!r}: {_first_line(error)}"
        ) from error


def _load_file(path: str, cache_dir: str | None) -> Dataset:
    file = Path(path)
    if not file.is_file():
        raise UsageError(f"{path}: no such file")
    if file.suffix not in _LOADERS:
        raise UsageError(f"{path}: unknown file type {file.suffix!r}; known: {', '.join(_LOADERS)}")
    if not file.read_bytes().strip():
        raise UsageError(f"{path}: the file is empty")
    try:
        return load_dataset(_LOADERS[file.suffix], data_files=str(file), split="train", cache_dir=cache_dir)
    except (DatasetGenerationError, ValueError) as error:
        if "corresponds to no data" in str(error):  # a header without a row
            raise UsageError(f"{path} holds no examples") from error
        raise UsageError(
            f"{path}: cannot be read as {file.suffix[1:]}: {_first_line(error.__cause__ or error)}"
        ) from error


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
