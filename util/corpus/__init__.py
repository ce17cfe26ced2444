"""The embedded corpus: news-like reports with summaries, made from a seed.

It lets every part of the project run without a download. `generate` gives the same examples for the
same seed on every machine; splits never share one.
"""

from random import Random

from util.corpus import lexicon
from util.corpus.kinds import CROPS, KINDS, PLACES, SITES

SPLIT_SIZES = {"train": 12000, "validation": 500, "test": 500}


def generate(split: str, size: int | None = None, seed: int = 0) -> list[dict[str, str]]:
    """Examples of a split: `{"document", "summary"}`, documents of 60 to 150 words.

    split: "train", "validation" or "test"; size: number of examples, the split's own if None.
    Raises ValueError for an unknown split.
    """
    if split not in SPLIT_SIZES:
        raise ValueError(f"unknown split {split!r}; known: {', '.join(SPLIT_SIZES)}")
    size = SPLIT_SIZES[split] if size is None else size
    return [_example(Random(f"{seed}/{split}/{index}")) for index in range(size)]


def _example(rng: Random) -> dict[str, str]:
    kind = rng.choice(KINDS)
    town, other_town = rng.sample(lexicon.TOWNS, 2)
    company, other_company = rng.sample(lexicon.COMPANIES, 2)
    surname, witness, culprit = rng.sample(lexicon.SURNAMES, 3)
    cause, cause_phrases = rng.choice(list(kind.causes.items()))
    outcome, outcome_phrases = rng.choice(list(kind.outcomes.items()))
    slots = {
        "town": town,
        "other_town": other_town,
        "region": lexicon.REGION_OF_TOWN[town],
        "company": company,
        "other_company": other_company,
        "surname": surname,
        "culprit": culprit,
        "cause": cause,
        "outcome": outcome,
        **_circumstances(rng),
        **kind.figures(rng),
    }
    bystander = rng.choice(lexicon.BYSTANDERS)
    body = [
        *kind.details,
        rng.choice(cause_phrases),
        _introduce(rng, slots) + " " + rng.choice(outcome_phrases),
        f'"{rng.choice(lexicon.REMARKS)}," said {rng.choice(lexicon.GIVEN_NAMES)} {witness}, '
        f"{_article(bystander)} {bystander}.",
        *rng.sample(lexicon.BACKGROUND, rng.randint(1, 3)),
    ]
    rng.shuffle(body)
    document = " ".join([rng.choice(kind.leads), *body]).format(**slots)
    summary = kind.summary.format(**slots)
    return {"document": document, "summary": summary[0].upper() + summary[1:]}


def _circumstances(rng: Random) -> dict[str, str]:
    """What may be told of any event."""
    return {
        "given": rng.choice(lexicon.GIVEN_NAMES),
        "official": rng.choice(lexicon.OFFICIALS),
        "day": rng.choice(lexicon.WEEKDAYS),
        "month": rng.choice(lexicon.MONTHS),
        "time": rng.choice(lexicon.DAY_TIMES),
        "hours": str(rng.randint(5, 60)),
        "season": rng.choice(lexicon.SEASONS),
        "weather": rng.choice(lexicon.WEATHERS),
        "century": rng.choice(lexicon.CENTURIES),
        "crowd": str(rng.randint(40, 900) * 100),
        "place": rng.choice(PLACES),
        "site": rng.choice(SITES),
        "crop": rng.choice(CROPS),
    }


def _introduce(rng: Random, slots: dict[str, str]) -> str:
    """The sentence in which a report says who its official is."""
    opening = rng.choice(("Among those who came was", "At the scene stood", "Questions went to"))
    return f"{opening} {slots['official']} {rng.choice(lexicon.GIVEN_NAMES)} {slots['surname']}."


def _article(noun: str) -> str:
    return "an" if noun[0] in "aeiou" else "a"
