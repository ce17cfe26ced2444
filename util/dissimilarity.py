"""Losses in [0, 1] of an early-exit text: how far it is from the full model's, or below it in quality.

References: CALM, Schuster et al. 2022, section 4.1 (textual and risk consistency).
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import nltk
from rouge_score import rouge_scorer

from util.answers import answer_f1, exact_match
from util.bleu import sentence_bleu, sentence_chrf
from util.words import RougeTokenizer, without_words, words

_SCORER = rouge_scorer.RougeScorer(["rougeL"], tokenizer=RougeTokenizer())


@lru_cache(maxsize=2**16)
def rouge_l(text: str, reference: str) -> float:
    """ROUGE-L F-measure in [0, 1], over `util.words.rouge_words`. Of two texts without words, such as emoji
    or nothing at all, 1 where they are the same and 0 otherwise."""
    if without_words(text) and without_words(reference):
        return float(words(text) == words(reference))
    return _SCORER.score(reference, text)["rougeL"].fmeasure


def token_error(text: str, reference: str) -> float:
    """Edits between the words, over the number of words of the longer text."""
    own, other = words(text), words(reference)
    longest = max(len(own), len(other))
    return nltk.edit_distance(own, other) / longest if longest else 0.0


def mismatch(text: str, reference: str) -> float:
    """1 where the texts differ in more than spaces."""
    return float(text.split() != reference.split())


def token_f1(text: str, reference: str) -> float:
    """F-measure in [0, 1] of the words that both hold, as often as both hold them; 1 where both are empty."""
    own, other = Counter(words(text.casefold())), Counter(words(reference.casefold()))
    if not own and not other:
        return 1.0
    common = (own & other).total()
    return 2 * common / (own.total() + other.total())


@dataclass(frozen=True)
class Comparison:
    """A distance of two texts or a quality of one against another, in [0, 1], and what others need to know.

    label: in verdicts. zero_one: whether its values are 0 and 1 alone.
    """

    value: Callable[[str, str], float]
    label: str
    zero_one: bool = False

    def __call__(self, text: str, other: str) -> float:
        return self.value(text, other)


# Textual loss: dissimilarity of early and full text.
TEXTUAL: dict[str, Comparison] = {
    "rouge": Comparison(lambda early, full: 1 - rouge_l(early, full), "1 − ROUGE-L"),
    "token_error": Comparison(token_error, "edits a word"),
    "bleu": Comparison(lambda early, full: 1 - sentence_bleu(early, full), "1 − BLEU"),
    "chrf": Comparison(lambda early, full: 1 - sentence_chrf(early, full), "1 − chrF"),
    "token_f1": Comparison(lambda early, full: 1 - token_f1(early, full), "1 − F1 of words"),
    "mismatch": Comparison(mismatch, "another text", zero_one=True),
}
# Risk: a text's quality, given a reference.
QUALITY: dict[str, Comparison] = {
    "rouge": Comparison(rouge_l, "ROUGE-L"),
    "token_f1": Comparison(token_f1, "F1 of words"),
    "bleu": Comparison(sentence_bleu, "BLEU"),
    "chrf": Comparison(sentence_chrf, "chrF"),
    "answer_f1": Comparison(answer_f1, "F1 of answers"),
    "exact_match": Comparison(exact_match, "exact match", zero_one=True),
}
CONSISTENCY = {"textual": TEXTUAL, "risk": QUALITY}


def loss(consistency: str, name: str, early: str, full: str, references: str | Sequence[str]) -> float:
    """The loss in [0, 1] of a prompt's early text. consistency: "textual" or "risk"; name: a key of `TEXTUAL`
    or `QUALITY`. Risk is max(0, (1 − quality of early) − (1 − quality of full)), prompt by prompt; of several
    references each text is compared with the one that it is best against."""
    if consistency == "textual":
        return min(1.0, max(0.0, TEXTUAL[name](early, full)))
    references = [references] if isinstance(references, str) else references
    own, other = (max(QUALITY[name](text, each) for each in references) for text in (full, early))
    return max(0.0, own - other)
