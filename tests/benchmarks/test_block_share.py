"""Exact drafts by the share of rows that wait: what is timed are the texts of full depth."""

import pytest

from benchmarks.block_share import SHARES, compare, policies
from early_exit.models.sources import Source
from early_exit.models.stream import decode_prompts
from tests.tiny import MODELS, source_batch

BATCH = source_batch(6, 8)
SOURCES = [Source.of(*row) for row in zip(BATCH["input_ids"], BATCH["attention_mask"], strict=True)]


def decode(policy):
    texts = decode_prompts(MODELS["t5"], policy, None, SOURCES, 3, {"max_length": 9})
    return [row.tokens for row in texts.rows]


def test_every_setting_is_timed_with_every_share():
    drafts = policies(4, 16)[1:3]
    rows = compare(decode, drafts, turns=2)
    assert [row["share"] for row in rows] == [0.0, *SHARES, *SHARES]
    assert all(len(row["seconds"]) == 2 for row in rows)
    assert rows[0]["times_full_depth"] == 1


def test_other_texts_are_an_error():
    def wrong(policy):
        return [tokens[:-1] for tokens in decode(policy)] if policy.verify else decode(policy)

    with pytest.raises(RuntimeError, match="other texts than full depth"):
        compare(wrong, policies(4, 16)[:1], turns=1)
