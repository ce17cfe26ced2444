"""The embedded corpus as other tasks see it: questions about its reports, and their summaries in a made language.

The same split has the same reports for every task.
"""

import re
from random import Random

from util.corpus import generate

# What every report holds, see `util.corpus`: who its official is, and what somebody said.
_OFFICIAL = re.compile(
    r"(?:Among those who came was|At the scene stood|Questions went to) "
    r"(?P<office>[a-z ]+) (?P<name>[A-Z]\w* [A-Z]\w*)\."
)
_REMARK = re.compile(r"\"(?P<remark>[^\"]+),\" said (?P<name>[A-Z]\w* [A-Z]\w*), an? (?P<job>[a-z ]+)\.")
_NEXT_VOWEL = str.maketrans("aeiou", "eioua")


def questions(split: str, size: int | None = None) -> list[dict]:
    """A question on each report of a split, in SQuAD's form. The answer stands in the report once at least."""
    return [
        _question(f"{split}/{number}", each["document"]) for number, each in enumerate(generate(split, size))
    ]


def translations(split: str, size: int | None = None) -> list[dict]:
    """The summaries of a split in English, "en", and in a language made by rule, "toy": the words in reverse,
    those in lower case with the next vowel for each (a e i o u), names and numbers as they are."""
    return [
        {"translation": {"en": each["summary"], "toy": _in_toy(each["summary"])}}
        for each in generate(split, size)
    ]


def _question(name: str, report: str) -> dict:
    official, remark = _OFFICIAL.search(report), _REMARK.search(report)
    question, found, group = Random(f"question/{name}").choice(
        [
            (f"Who is the {official['office']}?", official, "name"),
            (f"Who is the {remark['job']}?", remark, "name"),
            (f"What did {remark['name']} say?", remark, "remark"),
        ]
    )
    answers = {"text": [found[group]], "answer_start": [found.start(group)]}
    return {"id": name, "title": "", "context": report, "question": question, "answers": answers}


def _in_toy(text: str) -> str:
    words = re.findall(r"\w+|[^\w\s]", text)
    return " ".join(word.translate(_NEXT_VOWEL) if word.islower() else word for word in reversed(words))
