"""ROUGE of generated summaries, without a network.

`evaluate.load("rouge")` fetches a script from a hub; this is the same metric over the same package,
as a class. Scores are means over examples, in percent.

References: ROUGE, Lin 2004, as implemented by the rouge-score package.
"""

from collections.abc import Callable

import datasets
import evaluate
import nltk
import numpy as np
from nltk.tokenize.punkt import PunktSentenceTokenizer
from rouge_score import rouge_scorer

ROUGE_TYPES = ("rouge1", "rouge2", "rougeL", "rougeLsum")


def sentence_splitter() -> tuple[Callable[[str], list[str]], str]:
    """Splits a text into sentences for rougeLsum, and the splitter's name for the results.

    NLTK's trained English model where it is installed, its untrained algorithm otherwise.
    """
    try:
        nltk.data.find("tokenizers/punkt_tab/english/")
    except LookupError:
        return PunktSentenceTokenizer().tokenize, "punkt, untrained"
    return nltk.sent_tokenize, "punkt_tab, english"


class Rouge(evaluate.Metric):
    """Mean F-measure in percent of rouge1, rouge2, rougeL and rougeLsum, with stemming."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="ROUGE F-measures, averaged over examples, in percent.",
            citation="Lin 2004, ROUGE: A Package for Automatic Evaluation of Summaries",
            features=datasets.Features(
                {"predictions": datasets.Value("string"), "references": datasets.Value("string")}
            ),
        )

    def _compute(self, predictions: list[str], references: list[str]) -> dict[str, float]:
        split, _ = sentence_splitter()
        scorer = rouge_scorer.RougeScorer(ROUGE_TYPES, use_stemmer=True)
        scores = [
            scorer.score("\n".join(split(reference.strip())), "\n".join(split(prediction.strip())))
            for prediction, reference in zip(predictions, references, strict=True)
        ]
        return {
            name: 100 * float(np.mean([score[name].fmeasure for score in scores])) for name in ROUGE_TYPES
        }


def rouge_of_tokens(tokenizer) -> Callable[[list[list[int]], list[list[int]]], dict[str, float]]:
    """A function of generated and reference token ids (lists a row, -100 ignored) → ROUGE."""
    metric = Rouge(keep_in_memory=True)

    def compute(predictions: list[list[int]], references: list[list[int]]) -> dict[str, float]:
        texts = [
            tokenizer.batch_decode(
                [[token for token in row if token >= 0] for row in rows], skip_special_tokens=True
            )
            for rows in (predictions, references)
        ]
        return metric.compute(predictions=texts[0], references=texts[1])

    return compute
