"""Tasks: from a data set's columns to what the model reads and what it should write.

References: Raffel et al. 2020, *Exploring the limits of transfer learning with T5*, appendix D (sources).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


def one_text(cell: Any, flags: Any) -> Any:
    """The target as it stands in its column."""
    return cell


@dataclass(frozen=True)
class Task:
    """What tells one task from another.

    name: of the task. columns: by the last part of a hub id, the columns of a known data set, sources first,
    the target last. source: what is made of the sources' texts, a format string. target: (cell, flags) → the
    text; raises ValueError with what is wrong. several: whether it gives a list of all right texts, of which
    the first is learned. nested: a column whose cells are dictionaries, the entries of which count as columns.
    """

    name: str
    columns: Mapping[str, tuple[str, ...]]
    source: str = "{}"
    target: Callable[[Any, Any], Any] = one_text
    several: bool = False
    nested: str | None = None


SUMMARIZATION = Task(
    "summarization",
    {
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
    },
)
# Columns are languages, which flags name.
TRANSLATION = Task("translation", {}, nested="translation")
