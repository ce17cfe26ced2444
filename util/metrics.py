"""ROUGE of generated summaries, without a network.

`evaluate.load("rouge")` fetches a script from a hub; this is the same metric over the same package,
as a class. Scores are means over examples, in percent.

References: ROUGE, Lin 2004, as implemented by the rouge-score package.
"""

from collections.abc import Callable, Sequence

import datasets
import evaluate
import nltk
import numpy as np
import regex
from nltk.tokenize.punkt import PunktSentenceTokenizer
from rouge_score import rouge_scorer

from util.words import ROUGE_WORDS, RougeTokenizer, without_words

ROUGE_TYPES = ("rouge1", "rouge2", "rougeL", "rougeLsum")
# A sentence up to a full stop that Punkt does not know (。, ।, ؟), with quotes and brackets behind it.
_SENTENCE = regex.compile(
    r"(?V1)[^T]*(?:[T]+[\p{Pe}\p{Pf}\"']*|\Z)".replace("T", r"[\p{Sentence_Break=STerm}--[!?]]")
)


def sentence_splitter() -> tuple[Callable[[str], list[str]], str]:
    """Splits a text into sentences for rougeLsum, and the splitter's name for the results.

    NLTK's trained English model where it is installed, its untrained algorithm otherwise; and after Unicode's
    sentence terminals of other scripts.
    """
    try:
        nltk.data.find("tokenizers/punkt_tab/english/")
        punkt, name = nltk.sent_tokenize, "punkt_tab, english"
    except LookupError:
        punkt, name = PunktSentenceTokenizer().tokenize, "punkt, untrained"

    def split(text: str) -> list[str]:
        return [part.strip() for sentence in punkt(text) for part in _SENTENCE.findall(sentence) if part]

    return split, f"{name}; Unicode's sentence terminals"


def scoring_rules() -> dict[str, str]:
    """What ROUGE takes for words and for sentences, for the results."""
    return {"rouge_words": ROUGE_WORDS, "sentence_splitter": sentence_splitter()[1]}


class Rouge(evaluate.Metric):
    """Mean F-measure in percent of rouge1, rouge2, rougeL and rougeLsum, over `util.words.rouge_words`.

    As in rouge-score, an example scores 0 where the prediction or the reference has no words.
    """

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
        scorer = rouge_scorer.RougeScorer(ROUGE_TYPES, tokenizer=RougeTokenizer())
        scores = [
            scorer.score("\n".join(split(reference.strip())), "\n".join(split(prediction.strip())))
            for prediction, reference in zip(predictions, references, strict=True)
        ]
        return {
            name: 100 * float(np.mean([score[name].fmeasure for score in scores])) for name in ROUGE_TYPES
        }


def rouge_scores(texts: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float]:
    """ROUGE against the first reference of each text, in percent, and how many texts have no words."""
    first = [right[0] for right in references]
    return Rouge(keep_in_memory=True).compute(predictions=list(texts), references=first) | {
        "predictions_without_words": sum(map(without_words, texts)),
        "references_without_words": sum(map(without_words, first)),
    }


def rouge_against(
    references: Sequence[str], tokenizer
) -> Callable[[Sequence[Sequence[int]]], dict[str, float]]:
    """`scores_of_tokens` for ROUGE and one reference each."""
    return scores_of_tokens([[text] for text in references], tokenizer)


def scores_of_tokens(
    references: Sequence[Sequence[str]],
    tokenizer,
    scores: Callable[[Sequence[str], Sequence[Sequence[str]]], dict[str, float]] = rouge_scores,
) -> Callable[[Sequence[Sequence[int]]], dict[str, float]]:
    """A function of generated token ids, a list for each text → scores.

    references: of each text, as they stand in the data, neither cut nor tokenized. The function raises
    ValueError for another number of predictions.
    """
    references = [list(right) for right in references]

    def compute(predictions: Sequence[Sequence[int]]) -> dict[str, float]:
        if len(predictions) != len(references):
            raise ValueError(f"{len(predictions)} predictions for {len(references)} references")
        return scores(tokenizer.batch_decode(predictions, skip_special_tokens=True), references)

    return compute
