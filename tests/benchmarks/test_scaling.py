"""The arithmetic of docs/scaling.md, and that its tables are those of the results."""

from dataclasses import replace

import pytest
import torch
from transformers import T5Config, T5ForConditionalGeneration

from benchmarks import scaling
from benchmarks.scaling import Counted, Machine, Model, seconds, speedups, ways
from util.pages import with_tables

# Nothing but weights to read: a layer has 6·8·8 + 2·8·16 = 640, the head 100·8 = 800.
MODEL = Model("tiny", 8, 8, 16, 4, 2, vocabulary=100, source=0, new_tokens=10)
MEMORY = Machine("memory", bandwidth=1e-9, products=1e9, cache=1)  # a byte a second


@pytest.fixture
def slower(monkeypatch):
    monkeypatch.setattr(scaling, "slower_than_memory", lambda: 1.4)


def test_sizes_are_those_of_the_modules():
    sizes = {"d_model": 8, "d_kv": 2, "num_heads": 4, "d_ff": 16, "num_layers": 2, "num_decoder_layers": 4}
    model = T5ForConditionalGeneration(T5Config(vocab_size=100, **sizes))
    once = [block.layer[1].EncDecAttention for block in model.decoder.block]  # their k and v: once a source
    once = sum(attention.k.weight.numel() + attention.v.weight.numel() for attention in once)

    def products(stack):
        return sum(
            module.weight.numel() for module in stack.block.modules() if isinstance(module, torch.nn.Linear)
        )

    assert MODEL.layers * MODEL.layer == products(model.decoder) - once
    assert replace(MODEL, source=5).encoder == 5 * (products(model.encoder) + once)


@pytest.mark.usefixtures("slower")
def test_full_depth_reads_all_layers_and_the_head():
    assert seconds(MODEL, MEMORY, Counted(1, 1, 1, False)) == pytest.approx(1.4 * (4 * 640 + 800))


@pytest.mark.usefixtures("slower")
def test_half_of_the_layers_without_a_head():
    assert seconds(MODEL, MEMORY, Counted(0.5, 1, 0, False)) == pytest.approx(1.4 * 2 * 640)


@pytest.mark.usefixtures("slower")
def test_arithmetic_counts_where_it_takes_longer():
    machine = Machine("slow", bandwidth=1e9, products=1e-9)
    assert seconds(MODEL, machine, Counted(1, 3, 0, False)) == pytest.approx(1.4 * 3 * 4 * 640)


def test_what_does_nothing_else_gains_nothing():
    assert speedups(MODEL, MEMORY, Counted(1, 1, 1, False)) == (1, 1)


def test_ways_are_counted_from_the_headline():
    policy = {"shortlist_at_full_depth": False, "measure": "softmax"}
    exact = {
        "rows": 1, "precision": "int8", "group": "exact drafts", "promise": "", "policy": policy,
        "counts": {"tokens": 10, "layers": 60, "reads": 30, "blocks": 4},
    }  # fmt: skip
    listed = exact | {
        "group": "certified", "promise": "textual δ = 0.1, risk δ = 0.2",
        "policy": policy | {"shortlist_at_full_depth": True}, "counts": {"tokens": 10, "layers": 20},
    }  # fmt: skip
    found = ways([exact, listed], layers=6)
    assert found["exact drafts"] == Counted(0.5, 2, 0.4, True)
    assert found["certified, risk δ = 0.2"] == Counted(pytest.approx(1 / 3), 1, 0, True)


def test_the_page_is_current():
    text = scaling.PAGE.read_text(encoding="utf-8")
    assert with_tables(text, scaling.tables()) == text
    assert f"times {scaling.slower_than_memory():.2f}, which" in text
