"""What the engine refuses, and what it notes."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from early_exit import ExitPolicy, decode, memory
from models.adapter import decoder_weights, packed_exit_head
from tests.tiny import MODELS

WEIGHTS = decoder_weights(MODELS["t5"], positions=16)


def greedy(active, scores):
    return scores.tokens(), np.zeros(len(active), dtype=bool)


def decode_some(**changes):
    arguments = {
        "weights": WEIGHTS,
        "source": torch.randn(2, 5, 32),
        "source_mask": torch.ones(2, 5),
        "prefix": torch.zeros(2, 1, dtype=torch.long),
        "policy": ExitPolicy(),
        "next_tokens": greedy,
        "max_new_tokens": 6,
    }
    return decode(**arguments | changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"policy": ExitPolicy(measure="softmax", threshold=torch.ones(3))},
            r"shape \(3,\) for a batch of 2",
        ),
        (
            {"policy": ExitPolicy(static_layer=torch.ones(3, 2, dtype=torch.long))},
            "for 3 rows, and a batch of 2",
        ),
        ({"policy": ExitPolicy(static_layer=torch.tensor([1, 7]))}, "layer 7 is outside 1 to 4"),
        ({"source": torch.randn(2, 0, 32), "source_mask": None}, "sources of 0 tokens"),
        ({"prefix": torch.zeros(0, 1, dtype=torch.long), "row_sources": np.zeros(0, int)}, "0 rows"),
        ({"source_mask": torch.tensor([[1, 1, 1, 1, 1], [0, 0, 0, 0, 0]])}, "source 1 is all padding"),
        ({"row_sources": np.array([0, 2])}, "2 row sources for 2 rows and 2 sources"),
        ({"row_sources": np.array([0])}, "1 row sources for 2 rows"),
        ({"max_new_tokens": 16}, "17 positions; the weights were packed for 16"),
    ],
)
def test_bad_input_is_named(changes, message):
    with pytest.raises(ValueError, match=message):
        decode_some(**changes)


def test_memories_that_do_not_fit_are_refused_before_they_are_made(monkeypatch):
    monkeypatch.setattr(memory, "free_memory", lambda device: 2**20)
    monkeypatch.setattr(memory.torch, "empty", None)  # nothing may be allocated
    with pytest.raises(
        ValueError, match=r"7 tokens over 2 sources of 500000 take 1\.0 GiB, 0\.0 GiB are free"
    ):
        memory.check_memory(WEIGHTS, None, rows=2, positions=7, sources=2, length=500_000)


@pytest.mark.parametrize("name", [None, "MLP", "transformer_MLP_64"])
def test_the_estimate_of_memory_is_what_the_memories_take(name):
    rows, positions, sources, length = 3, 7, 2, 5
    head = None if name is None else packed_exit_head(MODELS["t5"], name, WEIGHTS, "float32")
    states = memory.ExitStates(WEIGHTS, rows, positions)
    caches = memory.TokenMemory(WEIGHTS, states)._caches
    if head is not None:
        caches += memory.TokenMemory(head, states)._caches
    own = sum(cache.tensor.nbytes for cache in caches) + states.tensor.nbytes
    cross = sum(memory._KeysAndValues.empty(WEIGHTS, sources, length).tensor.nbytes for _ in WEIGHTS.layers)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory, "free_memory", lambda device: own + cross)
        memory.check_memory(WEIGHTS, head, rows, positions, sources, length)
        patch.setattr(memory, "free_memory", lambda device: own + cross - 1)
        with pytest.raises(ValueError, match="decode fewer rows at a time"):
            memory.check_memory(WEIGHTS, head, rows, positions, sources, length)


def test_free_memory_is_that_of_this_machine():
    assert 2**20 < memory.free_memory(torch.device("cpu")) < 2**46


def test_a_head_that_is_not_given_is_missed():
    with pytest.raises(ValueError, match="measure 'MLP' needs its exit head"):
        decode_some(policy=ExitPolicy(measure="MLP", threshold=0.5))


def test_nan_confidences_are_reported():
    nan = replace(WEIGHTS, norm_floor=torch.tensor(float("nan")))
    with pytest.raises(ValueError, match="'softmax' gave NaN"):
        decode_some(weights=nan, policy=ExitPolicy(measure="softmax", threshold=0.5))


def test_layers_that_no_token_reaches_compute_no_keys_of_the_source(monkeypatch):
    reached = []
    fill = memory.SourceMemory._fill
    monkeypatch.setattr(
        memory.SourceMemory,
        "_fill",
        lambda self, layer, rows: (reached.append(layer), fill(self, layer, rows)),
    )
    decode_some(policy=ExitPolicy(static_layer=torch.tensor([2, 1, 3])), max_new_tokens=3)
    assert set(reached) == {0, 1, 2}


def test_a_schedule_is_followed_and_its_last_layer_kept():
    schedule = torch.tensor([[1, 4, 2], [3, 1, 4]])
    decoded = decode_some(policy=ExitPolicy(static_layer=schedule), max_new_tokens=5)
    assert decoded.exit_layers.tolist() == [[1, 4, 2, 2, 2], [3, 1, 4, 4, 4]]
    assert decoded.confidences.isnan().all()
