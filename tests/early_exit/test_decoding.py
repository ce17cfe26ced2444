"""What the engine refuses and notes, and that no schedule changes a text."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from early_exit import Engine, ExitPolicy, Prompt
from early_exit.decoding import kv_cache
from early_exit.kernels import torch_kernels
from early_exit.kernels.interface import Items
from early_exit.kernels.torch_kernels import TorchKernels
from early_exit.models.adapter import decoder_tensors
from early_exit.models.engines import engine_for
from tests.strategies import batch_policies
from tests.tiny import MODELS

KERNELS = TorchKernels(decoder_tensors(MODELS["t5"]), "float32")
START = np.zeros(1, dtype=np.int64)


def greedy(numbers, lengths, scores):
    return scores.tokens(), np.zeros(len(numbers), dtype=bool)


def decode_some(engine=None, **changes):
    arguments = {
        "prompts": [Prompt(torch.randn(5, 32), START), Prompt(torch.randn(5, 32), START)],
        "policy": ExitPolicy(),
        "choose": greedy,
        "max_new_tokens": 6,
    }
    return (engine or Engine(KERNELS)).decode_batch(**arguments | changes)


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
        ({"prompts": [Prompt(torch.randn(0, 32), START)]}, "a source of 0 tokens"),
        ({"prompts": [Prompt(torch.randn(1, 32), START[:0])]}, "a prefix of 0"),
        ({"prompts": []}, "0 rows"),
    ],
)
def test_bad_input_is_named(changes, message):
    with pytest.raises(ValueError, match=message):
        decode_some(**changes)


def test_caches_that_do_not_fit_are_refused_before_they_are_made(monkeypatch):
    monkeypatch.setattr("early_exit.decoding.kv_cache.free_memory", lambda device: 2**20)
    with pytest.raises(ValueError, match=r"2 sources of 5000 tokens take 0\.0 GiB.*decode fewer rows"):
        decode_some(prompts=[Prompt(torch.randn(5000, 32), START)] * 2)
    cache = kv_cache.KVCache(kv_cache.CacheSizes(4, 2, 4, 8, 32), torch.float32, torch.device("cpu"))
    held = [layer.data_ptr() for layer in cache.layers]
    with pytest.raises(ValueError, match=r"5000 positions a row"):
        cache.reserve(5000)
    assert [layer.data_ptr() for layer in cache.layers] == held


def test_a_long_limit_costs_no_memory(monkeypatch):
    """Caches grow with the texts, not with what they may become."""
    reserved = []
    reserve = kv_cache.KVCache.reserve
    monkeypatch.setattr(
        kv_cache.KVCache,
        "reserve",
        lambda self, positions: reserved.append(positions) or reserve(self, positions),
    )

    def three_tokens(numbers, lengths, scores):
        return scores.tokens(), lengths == 3

    assert decode_some(choose=three_tokens, max_new_tokens=10**9).exit_layers.shape == (2, 3)
    assert max(reserved) < 10


def test_a_head_that_is_not_given_is_missed():
    with pytest.raises(ValueError, match="measure 'MLP' needs its exit head"):
        decode_some(policy=ExitPolicy(measure="MLP", threshold=0.5))


def test_nan_confidences_are_reported():
    tensors = decoder_tensors(MODELS["t5"])
    broken = TorchKernels(replace(tensors, head_scale=float("nan")), "float32")
    with pytest.raises(ValueError, match="'softmax' gave NaN"):
        decode_some(Engine(broken), policy=ExitPolicy(measure="softmax", threshold=0.5))


def test_layers_that_no_token_reaches_compute_no_keys_of_the_source(monkeypatch):
    reached = set()
    fill = TorchKernels._fill_sources
    monkeypatch.setattr(
        TorchKernels,
        "_fill_sources",
        lambda self, layer, places, sources: (reached.add(layer), fill(self, layer, places, sources)),
    )
    decode_some(policy=ExitPolicy(static_layer=torch.tensor([2, 1, 3])), max_new_tokens=3)
    assert reached == {0, 1, 2}


def test_a_schedule_is_followed_and_its_last_layer_kept():
    schedule = torch.tensor([[1, 4, 2], [3, 1, 4]])
    decoded = decode_some(policy=ExitPolicy(static_layer=schedule), max_new_tokens=5)
    assert decoded.exit_layers.tolist() == [[1, 4, 2, 2, 2], [3, 1, 4, 4, 4]]
    assert decoded.confidences.isnan().all()


class _Texts:
    """Chooses greedily; texts end by a set of tokens. Keeps every text."""

    def __init__(self, ends):
        self.tokens, self._ends = {}, ends

    def __call__(self, numbers, lengths, scores):
        tokens = scores.tokens()
        for number, token in zip(numbers.tolist(), tokens.tolist(), strict=True):
            self.tokens.setdefault(number, []).append(token)
        return tokens, np.isin(tokens, self._ends)


def _prompts(data, count):
    """Prompts with sources and prefixes of different lengths; some share a source."""
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 999)))
    sources = [
        torch.randn(data.draw(st.integers(1, 9)), 32, generator=generator)
        for _ in range(data.draw(st.integers(1, count)))
    ]
    prefixes = st.lists(st.integers(0, 96), min_size=1, max_size=5)
    return [
        Prompt(sources[data.draw(st.integers(0, len(sources) - 1))], np.array(data.draw(prefixes)))
        for _ in range(count)
    ]


@given(count=st.integers(1, 9), rows=st.integers(1, 5), enough=st.integers(1, 5), data=st.data())
def test_no_schedule_and_no_neighbour_changes_a_text(count, rows, enough, data):
    """Any number of slots, any size of groups, prompts that join when others end: each text is what it is
    alone."""
    policy = data.draw(batch_policies(count))
    prompts = _prompts(data, count)
    ends = data.draw(st.lists(st.integers(0, 96), max_size=20))
    engine = engine_for(MODELS["t5"], policy, "float32").engine
    texts = _Texts(ends)
    decoded = {row.prompt: row for row in engine.decode(prompts, policy, texts, 8, rows, enough)}
    assert sorted(decoded) == list(range(count))
    for number, prompt in enumerate(prompts):
        own = _Texts(ends)
        [alone] = engine.decode([prompt], policy.for_row(number), own, 8, rows=1)
        row = decoded[number]
        assert row.tokens == texts.tokens[number] == own.tokens[0] == alone.tokens
        assert row.exit_layers == alone.exit_layers
        np.testing.assert_allclose(row.confidences, alone.confidences, atol=1e-5)
        np.testing.assert_allclose(row.max_stay_confidence, alone.max_stay_confidence, atol=1e-5)
        np.testing.assert_allclose(row.min_exit_confidence, alone.min_exit_confidence, atol=1e-5)


def test_rows_get_out_of_step_in_that_test():
    """Guards it: groups that never differ in length would prove little."""
    lengths_seen = []

    def choose(numbers, lengths, scores):
        lengths_seen.append(set(lengths.tolist()))
        return scores.tokens(), np.zeros(len(numbers), dtype=bool)

    schedule = torch.tensor([[1, 1, 4, 1], [4, 1, 1, 1], [2, 3, 1, 4], [1, 1, 1, 1]])
    prompts = [Prompt(torch.randn(3, 32), START) for _ in schedule]
    rows = list(Engine(KERNELS).decode(prompts, ExitPolicy(static_layer=schedule), choose, 8, 4, enough=3))
    assert len(rows) == 4
    assert any(len(lengths) > 1 for lengths in lengths_seen)


@given(data=st.data())
def test_truncating_and_running_again_gives_what_was_there(data):
    """Bit for bit, keys and values included; items of a call run together or one after the other alike."""
    length = data.draw(st.integers(2, 12))
    cut = data.draw(st.integers(0, length - 1))
    depth = data.draw(st.integers(1, 4))
    cache = kv_cache.KVCache(kv_cache.CacheSizes(4, 2, 4, 8, 32), torch.float32, torch.device("cpu"))
    sources = kv_cache.SourceCache(kv_cache.CacheSizes(4, 2, 4, 8, 32), torch.float32, torch.device("cpu"))
    source = torch.randn(6, 32)
    for slot in range(2):
        sources.add(slot, 0, source)
    tokens = np.arange(length) + 5

    def run(first, last):
        states = [
            KERNELS.run(_items([position]), KERNELS.embed(tokens[position, None]), 0, depth, cache, sources)
            for position in range(first, last)
        ]
        return torch.cat(states)

    before = run(0, length)
    held = [layer[:, 1, :, :length].clone() for layer in cache.layers[:depth]]
    cache.truncate(np.array([1]), cut)
    assert torch.equal(run(cut, length), before[cut:])
    for layer, was in zip(cache.layers, held, strict=False):
        assert torch.equal(layer[:, 1, :, :length], was)
    cache.truncate(np.array([1]), 0)
    together = KERNELS.run(_items(range(length)), KERNELS.embed(tokens), 0, depth, cache, sources)
    torch.testing.assert_close(together, before, atol=1e-4, rtol=1e-4)


def _items(positions):
    positions = np.array(positions)
    return Items(np.ones_like(positions), positions)


def test_an_item_runs_once():
    cache = kv_cache.KVCache(kv_cache.CacheSizes(1, 2, 4, 8, 32), torch.float32, torch.device("cpu"))
    cache.enter(0, np.array([0, 1]), np.array([0, 0]))
    with pytest.raises(ValueError, match="truncate first"):
        cache.enter(0, np.array([1]), np.array([0]))


@given(st.data())
def test_entering_tells_which_positions_wait(data):
    """Against sets of pairs."""
    cache = kv_cache.KVCache(kv_cache.CacheSizes(1, 3, 1, 1, 1), torch.float32, torch.device("cpu"))
    there = set()
    for _ in range(data.draw(st.integers(1, 5))):
        firsts = [sum(slot == held for held, _ in there) for slot in range(3)]
        drawn = data.draw(st.sets(st.tuples(st.integers(0, 2), st.integers(0, 4)), min_size=1, max_size=6))
        items = sorted((slot, firsts[slot] + ahead) for slot, ahead in drawn)
        slots, positions = map(np.array, zip(*items, strict=True))
        waiting = cache.enter(0, slots, positions)
        ends = dict(items)
        before = {(slot, position) for slot, end in ends.items() for position in range(end)}
        found = set() if waiting is None else set(zip(*(each.tolist() for each in waiting), strict=True))
        assert found == before - there - set(items)
        there |= before | set(items)


def test_attention_masks_start_on_a_multiple_of_16_bytes(monkeypatch):
    """Where they do not, attention on GPUs fails with "misaligned address"."""
    attend, starts = torch_kernels.scaled_dot_product_attention, []

    def noting(*tensors, attn_mask, scale):
        if attn_mask is not None and attn_mask.is_floating_point():
            starts.append(attn_mask.data_ptr() % 16)
        return attend(*tensors, attn_mask=attn_mask, scale=scale)

    monkeypatch.setattr(torch_kernels, "scaled_dot_product_attention", noting)
    decode_some(max_new_tokens=9)
    for heads, position in product((1, 4), range(8)):
        items = Items(np.arange(2), np.full(2, position))
        mask = torch_kernels.causal_mask(items, torch.randn(heads, 8), torch.device("cpu"))
        starts.append(mask.data_ptr() % 16)
    assert len(starts) >= 9 + 16
    assert set(starts) == {0}
