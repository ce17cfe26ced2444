r"""Words of a text in any script, for scores that count them.

ASCII text has the words it always had: for ROUGE those of the rouge-score package with stemming, for edits
and F1 what stands between spaces. The same rules go on to all of Unicode: letters and digits of every script
with their combining marks, and single characters where a script puts no space between words.

References: Unicode Standard Annexes 14 (line breaking), 15 (normalisation), 24 (scripts) and 44 (properties),
as implemented by the regex package.
"""

import unicodedata

import regex
from nltk.stem.porter import PorterStemmer
from rouge_score import tokenizers

# What the words of ROUGE are, for the results.
ROUGE_WORDS = (
    "Unicode letters and digits with their marks, NFKC, casefold; single characters of scripts without "
    "spaces; Porter stems of a-z words"
)
# Letters of scripts without spaces: Han, kana, and Unicode's "complex context", which is Thai, Lao, Khmer,
# Myanmar and their relatives. The prolonged sound mark belongs to both kana and to neither.
_UNSPACED = r"[[\p{Han}\p{Hiragana}\p{Katakana}ー\p{Line_Break=Complex_Context}]&&[\p{L}\p{N}]]"
_LETTERS = regex.compile(rf"(?V1){_UNSPACED}\p{{M}}*|(?:[[\p{{L}}\p{{N}}]--{_UNSPACED}]\p{{M}}*)+")
_UNSPACED_OR_CHUNK = regex.compile(rf"(?V1){_UNSPACED}\p{{M}}*|[^{_UNSPACED}]+")
# Soft hyphens, joiners, variation selectors. The zero-width space stays: it separates words.
_IGNORABLE = regex.compile(r"(?V1)[\p{Default_Ignorable_Code_Point}--\u200B]")
_STEMMER = PorterStemmer()


def words(text: str) -> list[str]:
    """What stands between spaces, punctuation and case kept, each letter of a script without spaces alone."""
    chunks = unicodedata.normalize("NFC", text).split()
    return [word for chunk in chunks for word in _UNSPACED_OR_CHUNK.findall(chunk)]


def rouge_words(text: str) -> list[str]:
    """Letters and digits, casefolded and compatible forms unified (`ROUGE_WORDS`).

    Of words of a-z and digits with more than three characters the Porter stem, as rouge-score has it.
    """
    folded = _IGNORABLE.sub("", unicodedata.normalize("NFKC", text).casefold())
    found = _LETTERS.findall(unicodedata.normalize("NFKC", folded))
    return [_STEMMER.stem(word) if len(word) > 3 and word.isascii() else word for word in found]


class RougeTokenizer(tokenizers.Tokenizer):
    """`rouge_words`, as rouge-score takes it."""

    def tokenize(self, text: str) -> list[str]:
        return rouge_words(text)


def without_words(text: str) -> bool:
    """Whether ROUGE sees nothing in a text: it is empty, or all punctuation, symbols or emoji."""
    return not rouge_words(text)
