"""Tasks: from a data set's columns to what the model reads and what it should write, and how that is scored.

A new task is one value here, with the flags of its data in `util.task_arguments` and an entry point.

References: Raffel et al. 2020, *Exploring the limits of transfer learning with T5*, appendix D (sources).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from util.answers import answer_rules, answer_scores, answers
from util.bleu import translation_rules, translation_scores
from util.corpus import generate
from util.corpus.tasks import questions, translations
from util.metrics import rouge_scores


def _as_it_is(cell: Any) -> Any:
    return cell


@dataclass(frozen=True)
class Task:
    """What tells one task from another.

    name: of the task. columns: by the last part of a hub id, the columns of a known data set, sources first,
    the target last. embedded: (split, how many) → rows of the embedded corpus. scores: (texts, references
    of each) → score name → percent. score_names: its keys, of which the first chooses the best model.

    source: what is made of the sources' texts, a format string. target: cell → the text; raises ValueError
    with what is wrong. several: whether it gives a list of all right texts, of which the first is learned.
    nested: a column whose cells are dictionaries, the entries of which count as columns. rules: what results
    say of the scores, beside ROUGE's rules.
    """

    name: str
    columns: Mapping[str, tuple[str, ...]]
    embedded: Callable[[str, int], list[dict[str, Any]]]
    scores: Callable[[Sequence[str], Sequence[Sequence[str]]], dict[str, float]]
    score_names: tuple[str, ...]
    source: str = "{}"
    target: Callable[[Any], Any] = _as_it_is
    several: bool = False
    nested: str | None = None
    rules: Callable[[], dict[str, str]] = dict


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


def translation(language: str) -> Task:
    """Into a language, whose words BLEU tells apart."""
    return Task(
        name="translation",
        columns={},  # languages, which flags name
        embedded=translations,
        scores=partial(translation_scores, language=language),
        score_names=("bleu", "chrf"),
        nested="translation",
        rules=partial(translation_rules, language),
    )


def question_answering(may_lack: bool) -> Task:
    """may_lack: whether there are questions without an answer."""
    return Task(
        name="question answering",
        columns=dict.fromkeys(("squad", "squad_v2", "xquad", "embedded"), ("question", "context", "answers")),
        embedded=questions,
        scores=partial(answer_scores, may_lack=may_lack),
        score_names=("f1", "exact_match"),
        source="question: {} context: {}",
        target=partial(answers, may_lack=may_lack),
        several=True,
        rules=answer_rules,
    )
