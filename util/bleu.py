"""Scores of translations: BLEU and chrF of a whole test set, and of one text.

References: BLEU, Papineni et al. 2002; chrF, Popović 2015; both as implemented by sacreBLEU, Post 2018.
"""

from collections.abc import Sequence
from functools import lru_cache
from itertools import zip_longest

from sacrebleu.metrics import BLEU, CHRF

from util.words import words

# What takes a text apart where a language puts no space between its words; sacreBLEU's 13a elsewhere.
_TOKENIZERS = {"zh": "zh", "ja": "char", "ko": "char", "th": "char", "lo": "char", "km": "char", "my": "char"}
_SENTENCE_BLEU, _CHRF = BLEU(effective_order=True), CHRF()


def translation_scores(
    texts: Sequence[str], references: Sequence[Sequence[str]], language: str
) -> dict[str, float]:
    """Corpus BLEU and chrF, in percent. references: of each text one or more, not as many everywhere.
    language: of the texts, a code such as de or zh_CN, for how words are told apart."""
    return {
        "bleu": corpus_bleu(texts, references, language),
        "chrf": CHRF().corpus_score(texts, _columns(references)).score,
    }


def corpus_bleu(texts: Sequence[str], references: Sequence[Sequence[str]], language: str) -> float:
    """In percent; arguments as of `translation_scores`."""
    return _bleu(language).corpus_score(texts, _columns(references)).score


def _columns(references: Sequence[Sequence[str]]) -> list[tuple[str | None, ...]]:
    """sacreBLEU wants a list of all first references, and so on."""
    return list(zip_longest(*references))


def translation_rules(language: str) -> dict[str, str]:
    """What BLEU and chrF of a run are, as sacreBLEU's signatures say it, but for the number of references."""
    metrics = {"bleu": _bleu(language), "chrf": CHRF()}
    for metric in metrics.values():
        metric.corpus_score(["a"], [["a"]])  # a metric has no signature before it was used
    return {f"{name}_rules": str(metric.get_signature()) for name, metric in metrics.items()}


def _bleu(language: str) -> BLEU:
    code = language.replace("_", "-").split("-")[0].lower()
    return BLEU(tokenize=_TOKENIZERS.get(code, "13a"))


@lru_cache(maxsize=2**16)
def sentence_bleu(text: str, reference: str) -> float:
    """sacreBLEU's sentence BLEU in [0, 1]: exponential smoothing, orders that the text is too short for left
    out. Characters of scripts without spaces are words. Of two empty texts 1."""
    own, other = (" ".join(words(each)) for each in (text, reference))
    if own == other:
        return 1.0
    return min(1.0, _SENTENCE_BLEU.sentence_score(own, [other]).score / 100)


@lru_cache(maxsize=2**16)
def sentence_chrf(text: str, reference: str) -> float:
    """chrF in [0, 1]: characters, up to six in a row, spaces aside. Of two empty texts 1."""
    if text.split() == reference.split():
        return 1.0
    return min(1.0, _CHRF.sentence_score(text, [reference]).score / 100)
