"""Tasks: from a data set's columns to what the model reads and what it should write, and how that is scored.

A new task is one value here, with the flags of its data in `util.task_arguments` and an entry point.

References: Raffel et al. 2020, *Exploring the limits of transfer learning with T5*, appendix D (sources).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from util.answers import answer_rules, answer_scores, answers
from util.bleu import translation_rules, translation_scores
from util.corpus import generate
from util.corpus.tasks import questions, translations
from util.metrics import rouge_scores


def _one_text(cell: Any, flags: Any) -> Any:
    return cell


def _nothing_more(flags: Any) -> dict[str, str]:
    return {}


@dataclass(frozen=True)
class Task:
    """What tells one task from another; flags: those of its data.

    name: of the task. columns: by the last part of a hub id, the columns of a known data set, sources first,
    the target last. embedded: split → rows of the embedded corpus. scores: (texts, references of each, flags)
    → score name → percent. score_names: its keys, of which the first chooses the best model.

    source: what is made of the sources' texts, a format string. target: (cell, flags) → the text; raises
    ValueError with what is wrong. several: whether it gives a list of all right texts, of which the first is
    learned. nested: a column whose cells are dictionaries, the entries of which count as columns. rules: what
    results say of the scores, beside ROUGE's rules.
    """

    name: str
    columns: Mapping[str, tuple[str, ...]]
    embedded: Callable[[str], list[dict[str, Any]]]
    scores: Callable[[Sequence[str], Sequence[Sequence[str]], Any], dict[str, float]]
    score_names: tuple[str, ...]
    source: str = "{}"
    target: Callable[[Any, Any], Any] = _one_text
    several: bool = False
    nested: str | None = None
    rules: Callable[[Any], dict[str, str]] = _nothing_more


SUMMARIZATION = Task(
    name="summarization",
    columns={
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
    embedded=generate,
    scores=rouge_scores,
    score_names=("rougeL", "rouge1", "rouge2", "rougeLsum"),
)
TRANSLATION = Task(
    name="translation",
    columns={},  # languages, which flags name
    embedded=translations,
    scores=translation_scores,
    score_names=("bleu", "chrf"),
    nested="translation",
    rules=translation_rules,
)
QUESTION_ANSWERING = Task(
    name="question answering",
    columns=dict.fromkeys(("squad", "squad_v2", "xquad", "embedded"), ("question", "context", "answers")),
    embedded=questions,
    scores=answer_scores,
    score_names=("f1", "exact_match"),
    source="question: {} context: {}",
    target=answers,
    several=True,
    rules=answer_rules,
)
