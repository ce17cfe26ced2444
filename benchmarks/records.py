"""Records of a data file, as the benchmarks read them, and their tokens."""

import json
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

PREFIX = "summarize: "


def read_records(path: Path | str, samples: int | None = None) -> list[dict[str, Any]]:
    """The first `samples` of a file of JSON lines, or all."""
    with Path(path).open(encoding="utf-8") as lines:
        return [json.loads(line) for line in islice(lines, samples)]


def source_tokens(documents: list[str], tokenizer, longest: int, prefix: str = PREFIX) -> list[list[int]]:
    """What the model reads of each document, cut to `longest` tokens."""
    return tokenizer([prefix + each for each in documents], truncation=True, max_length=longest)["input_ids"]


@cache
def pairs(data: str) -> list[tuple[str, str]]:
    """Source and reference of each line of a file: document and summary, or German and English."""
    records = read_records(data)
    if "translation" in records[0]:
        return [(each["translation"]["de"], each["translation"]["en"]) for each in records]
    return [(each["document"], each["summary"]) for each in records]
