"""The replay of drafts counts what decoding them counts."""

import numpy as np
import pytest
import torch

from benchmarks.draft_lengths import Costs, Record, compare, recorded, replay
from early_exit import ExitPolicy
from early_exit.models.sources import Source
from early_exit.models.stream import decode_prompts
from tests.tiny import MODELS, source_batch

BATCH = source_batch(12, 8)
SOURCES = [Source.of(*row) for row in zip(BATCH["input_ids"], BATCH["attention_mask"], strict=True)]


@pytest.mark.parametrize("most", [1, 3, 6])
def test_layers_are_those_that_decoding_reads(most):
    records = recorded(MODELS["t5"], SOURCES, 12, 1)
    policy = ExitPolicy(static_layer=1, verify="exact", max_draft=most)
    with torch.no_grad():
        rows = decode_prompts(MODELS["t5"], policy, None, SOURCES, 1, {"max_length": 12}).rows
    costs = Costs(layers=4, exit=1, further=0.0, head=0.0)
    for row, record in zip(rows, records, strict=True):
        assert len(record.agrees) == len(row.tokens)
        # Drafts behind a wrong one may end the text where those of the record go on, or go on where it ends.
        assert replay(record, costs, lambda last: most) == pytest.approx(row.drafting.reads, abs=most)


def test_by_hand():
    record = Record(np.array([True, True, False, True, True]), np.array([0.9, 0.2, 0.9, 0.9, 0.9]))
    costs = Costs(layers=4, exit=1, further=0.5, head=0.25)
    # Three drafts, the third is wrong; then the last two, no token in flight behind them.
    first = 4 * 1 + 3 * (1 + 0.5 * 3) + 0.25 * 4
    second = 2 * 1 + 3 * (1 + 0.5 * 1) + 0.25 * 3
    assert replay(record, costs, lambda last: 3) == pytest.approx(first + second)
    # By confidence: one draft and a token in flight (two questions), then the wrong one, and so on.
    one = 2 * 1 + 3 * (1 + 0.5) + 0.25 * 3
    two = 4 * 1 - 1 + 3 * (1 + 0.5 * 2) + 0.25 * 4
    assert replay(record, costs, lambda last: 9, 0.5) == pytest.approx(one + two + second)


def test_every_rule_beats_nothing_where_all_is_right():
    record = Record(np.ones(30, dtype=bool), np.ones(30))
    rows = {row["rule"]: row["times_full_depth"] for row in compare([record], Costs(6, 1, 0.1, 0.0))}
    assert all(times > 1 for times in rows.values())
    assert rows["at most 12"] > rows["at most 2"]
