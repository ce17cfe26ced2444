"""Answers to questions: as data sets hold them, and how right a generated one is.

References: SQuAD, Rajpurkar et al. 2016 (section 6.1: exact match, F1, what is left out before a comparison)
and 2018 (questions without an answer).
"""

import re
import string
from collections import Counter
from collections.abc import Sequence
from typing import Any

from util.words import words

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def answers(cell: Any, may_lack: bool = False) -> list[str]:
    """The right answers of a question, each once; [""] where there is none and a question `may_lack` one.

    cell: SQuAD's {"text": [...], "answer_start": [...]}, a list of texts, or one text. Raises ValueError
    where it is none of these.
    """
    texts = cell.get("text") if isinstance(cell, dict) else cell
    texts = [texts] if isinstance(texts, str) else texts
    if texts is not None and not (isinstance(texts, list) and all(isinstance(each, str) for each in texts)):
        raise ValueError("holds neither texts nor {'text': [texts]}")
    texts = list(dict.fromkeys(text for text in texts or [] if text.strip()))
    if not texts and not may_lack:
        raise ValueError("holds no answer, which --version_2_with_negative allows")
    return texts or [""]


def normal_words(text: str) -> list[str]:
    """Words in lower case without punctuation (ASCII's) and English articles."""
    plain = text.lower().translate(_PUNCTUATION)
    return words(_ARTICLES.sub(" ", plain))


def exact_match(text: str, reference: str) -> float:
    """1 where the normal words are the same, else 0."""
    return float(normal_words(text) == normal_words(reference))


def answer_f1(text: str, reference: str) -> float:
    """F-measure in [0, 1] of the normal words that both hold; where one has none, 1 if the other has none."""
    own, other = Counter(normal_words(text)), Counter(normal_words(reference))
    if not own or not other:
        return float(own == other)
    common = (own & other).total()
    return 2 * common / (own.total() + other.total())


def answer_scores(
    texts: Sequence[str], references: Sequence[Sequence[str]], may_lack: bool = False
) -> dict[str, float]:
    """Means over questions, in percent, against the best of each question's references; where questions
    `may_lack` an answer, also of those that have one and of those that have none, where there are such."""
    pairs = list(zip(texts, references, strict=True))
    scores = {
        name: [100 * max(score(text, each) for each in right) for text, right in pairs]
        for name, score in {"exact_match": exact_match, "f1": answer_f1}.items()
    }
    found = {name: sum(each) / len(each) for name, each in scores.items()}
    if not may_lack:
        return found
    answered = [any(map(str.strip, right)) for _, right in pairs]
    for kind, wanted in {"has_answer": True, "no_answer": False}.items():
        for name, each in scores.items():
            own = [score for score, has in zip(each, answered, strict=True) if has is wanted]
            found |= {f"{kind}_{name}": sum(own) / len(own)} if own else {}
    return found


def answer_rules() -> dict[str, str]:
    """What exact match and F1 compare, for the results."""
    rules = "lower case without ASCII punctuation and a, an, the; characters of scripts without spaces"
    return {"answer_words": rules}
