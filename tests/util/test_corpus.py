import re

import pytest

from util.corpus import SPLIT_SIZES, generate
from util.corpus.lexicon import REGION_OF_TOWN


def words(text: str) -> list[str]:
    return re.findall(r"[a-z]+", text.lower())


@pytest.fixture(scope="module")
def splits():
    return {name: generate(name) for name in SPLIT_SIZES}


def test_corpus_is_large_and_varied_enough(splits):
    examples = splits["train"]
    assert len(examples) == SPLIT_SIZES["train"]
    vocabulary = {word for example in examples for text in example.values() for word in words(text)}
    assert len(vocabulary) >= 2000
    assert all(60 <= len(example["document"].split()) <= 150 for example in examples)
    assert all(8 <= len(example["summary"].split()) <= 30 for example in examples)


def test_summaries_are_not_copied_and_need_knowledge(splits):
    for example in splits["validation"][:300]:
        document, summary = (" ".join(words(example[name])) for name in ("document", "summary"))
        assert summary not in document
        runs = [" ".join(summary.split()[at : at + 6]) for at in range(len(summary.split()) - 5)]
        assert not any(run in document for run in runs)
        region = next(region for region in REGION_OF_TOWN.values() if region in example["summary"])
        assert region not in example["document"]


def test_no_slot_is_left_open(splits):
    assert not [example for example in splits["test"] if set("{}") & set("".join(example.values()))]


def test_same_seed_same_examples_and_splits_share_none(splits):
    assert generate("train", 50) == splits["train"][:50]
    assert generate("train", 50) != generate("train", 50, seed=1)
    documents = [{example["document"] for example in examples} for examples in splits.values()]
    assert len(set.union(*documents)) == sum(map(len, documents)) == sum(SPLIT_SIZES.values())


def test_unknown_split_is_named():
    with pytest.raises(ValueError, match=r"'dev'.*train, validation, test"):
        generate("dev")
