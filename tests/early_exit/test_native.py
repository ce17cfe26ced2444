"""The compiled kernels against torch's, in every precision that these have, and against themselves."""

import gc
import os
import subprocess
import sys
import weakref
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import T5Config

from early_exit.decoding.kv_cache import CacheSizes, KVCache, SourceCache
from early_exit.kernels.interface import Items
from early_exit.kernels.native import build
from early_exit.kernels.native.encoder import NativeEncoder
from early_exit.kernels.native.kernels import Biases, NativeKernels
from early_exit.kernels.native.library import native_library
from early_exit.kernels.torch_kernels import TorchKernels
from early_exit.linear import PRECISIONS, has_native
from early_exit.models.adapter import decoder_tensors, encoder_tensors
from early_exit.models.t5 import EarlyExitT5
from tests.strategies import examples
from tests.tiny import FAMILIES, MODELS

pytestmark = [
    pytest.mark.skipif(not has_native("cpu"), reason="needs the compiled kernels"),
    pytest.mark.usefixtures("two_threads"),
]


class Rows:
    """Caches of some rows, with random sources and exit states."""

    def __init__(self, kernels, sources: list[int], seed: int = 0):
        spec, generator = kernels.tensors.spec, torch.Generator().manual_seed(seed)
        self.kernels, self.num_layers = kernels, len(kernels.tensors.layers)
        sizes = CacheSizes(self.num_layers, len(sources), spec.heads, spec.head_dim, spec.d_model)
        self.cache = KVCache(sizes, kernels.dtype, "cpu")
        self.sources = SourceCache(sizes, kernels.dtype, "cpu")
        for slot, length in enumerate(sources):
            self.sources.add(slot, slot, torch.randn(length, spec.d_model, generator=generator))
        self.cache.exit_states.copy_(torch.randn(self.cache.exit_states.shape, generator=generator))

    def run(
        self, slots: list[int], positions: list[int], first: int = 0, last: int | None = None, seed: int = 9
    ):
        """States are random, by (slot, position)."""
        d_model = self.kernels.tensors.spec.d_model
        states = torch.stack([
            torch.randn(d_model, generator=torch.Generator().manual_seed(seed + 100 * slot + position))
            for slot, position in zip(slots, positions, strict=True)
        ])  # fmt: skip
        items = Items(np.array(slots), np.array(positions))
        return self.kernels.run(items, states, first, last or self.num_layers, self.cache, self.sources)


SCHEDULE = [([0, 0, 2, 1], [0, 1, 0, 3]), ([1, 2], [4, 3]), ([0], [2])]  # with positions left out, which wait


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 1e-5), ("bfloat16", 0.1)])
def test_they_compute_what_torch_does(family, precision, tolerance):
    tensors = decoder_tensors(MODELS[family])
    runs = [Rows(make(tensors, precision), [5, 9, 2]) for make in (TorchKernels, NativeKernels)]
    for slots, positions in SCHEDULE:
        expected, states = (rows.run(slots, positions) for rows in runs)
        assert (states - expected).norm() <= tolerance * expected.norm()
        assert np.array_equal(runs[0].cache.filled, runs[1].cache.filled)
        own = runs[1].kernels
        logits = own.logits(states)
        torch.testing.assert_close(
            logits, TorchKernels(tensors, "float32").logits(states), atol=0.1, rtol=0.1
        )
        top, largest = own.top(states), logits.softmax(-1).topk(2).values
        assert top.tokens.tolist() == logits.argmax(-1).tolist()
        gaps = torch.from_numpy(top.response)
        torch.testing.assert_close(gaps, largest[:, 0] - largest[:, 1], atol=1e-6, rtol=1e-5)


def odd_model(
    d_model: int, heads: int, head_dim: int, d_ff: int, vocabulary: int, gated: bool
) -> EarlyExitT5:
    torch.manual_seed(0)
    return EarlyExitT5(
        T5Config(
            vocab_size=vocabulary, d_model=d_model, d_kv=head_dim, d_ff=d_ff, num_heads=heads, num_layers=2,
            feed_forward_proj="gated-gelu" if gated else "relu", decoder_start_token_id=0,
        )
    ).eval()  # fmt: skip


@examples(0.25)
@given(
    d_model=st.integers(1, 70), heads=st.integers(1, 3), head_dim=st.integers(1, 70), d_ff=st.integers(1, 90),
    vocabulary=st.integers(2, 600), gated=st.booleans(), source=st.integers(1, 40),
)  # fmt: skip
@torch.no_grad()
def test_odd_sizes(d_model, heads, head_dim, d_ff, vocabulary, gated, source):
    model = odd_model(d_model, heads, head_dim, d_ff, vocabulary, gated)
    tensors = decoder_tensors(model)
    runs = [Rows(make(tensors, "float32"), [source, 1, 9]) for make in (TorchKernels, NativeKernels)]
    for slots, positions in SCHEDULE:
        expected, states = (rows.run(slots, positions) for rows in runs)
        torch.testing.assert_close(states, expected, atol=1e-4, rtol=1e-3)
        wanted = runs[0].kernels.logits(states)
        torch.testing.assert_close(runs[1].kernels.logits(states), wanted, atol=1e-4, rtol=1e-3)
        some = torch.randint(0, vocabulary, (len(states), 3))
        for rows in runs:
            own = rows.kernels.logits_of(states, some)
            torch.testing.assert_close(own, wanted.gather(1, some), atol=1e-4, rtol=1e-3)
    inputs = torch.randint(0, vocabulary, (1, source))
    expected = model.encoder(input_ids=inputs).last_hidden_state[0]
    encode = NativeEncoder(encoder_tensors(model), "float32")
    encoded = encode(model.shared(inputs[0]), np.array([source]))
    torch.testing.assert_close(encoded, expected, atol=1e-4, rtol=1e-3)


@torch.no_grad()
@pytest.mark.parametrize("precision", PRECISIONS)
@given(data=st.data())
@examples(0.25)
def test_an_item_is_bit_for_bit_the_same_in_any_call(precision, data):
    """Alone and after one another; and many at once, on several threads."""
    kernels = NativeKernels(decoder_tensors(MODELS["t5 v1.1"]), precision)
    sources = data.draw(st.lists(st.integers(1, 40), min_size=1, max_size=7))
    lengths = [data.draw(st.integers(1, 6)) for _ in sources]
    items = [(slot, position) for slot, length in enumerate(lengths) for position in range(length)]
    together, alone = Rows(kernels, sources), Rows(kernels, sources)
    slots, positions = (list(part) for part in zip(*items, strict=True))
    states = together.run(slots, positions)
    one_by_one = torch.cat([alone.run([slot], [position]) for slot, position in items])
    assert torch.equal(states, one_by_one)
    for mine, other in zip(together.cache.layers, alone.cache.layers, strict=True):
        assert torch.equal(mine, other)
    assert torch.equal(kernels.logits(states), torch.cat([kernels.logits(state[None]) for state in states]))
    tops = [kernels.top(state[None]) for state in states]
    assert np.array_equal(kernels.top(states).response, np.concatenate([top.response for top in tops]))
    together.cache.truncate(np.array([0]), 0)
    rerun = together.run([0] * lengths[0], list(range(lengths[0])))
    assert torch.equal(rerun, states[: lengths[0]])
    for mine, other in zip(together.cache.layers, alone.cache.layers, strict=True):
        assert torch.equal(mine, other)


@torch.no_grad()
@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_source_is_encoded_bit_for_bit_the_same_beside_others(precision):
    encode, generator = (
        NativeEncoder(encoder_tensors(MODELS["t5"]), precision),
        torch.Generator().manual_seed(0),
    )
    lengths = np.array([3, 1, 70, 5, 64])
    d_model = encode.tensors.spec.d_model
    states = torch.randn(int(lengths.sum()), d_model, generator=generator)
    together = encode(states, lengths).split(lengths.tolist())
    for own, source in zip(together, states.split(lengths.tolist()), strict=True):
        assert torch.equal(encode(source, np.array([len(source)])), own)


def test_nan_comes_out_as_nan():
    tensors = decoder_tensors(MODELS["t5"])
    broken = NativeKernels(replace(tensors, head=torch.full_like(tensors.head, torch.nan)), "float32")
    assert np.isnan(broken.top(torch.ones(2, tensors.spec.d_model)).response).all()
    kernels = NativeKernels(tensors, "int8")
    states = torch.ones(3, tensors.spec.d_model)
    states[1, 0] = torch.nan
    assert np.isnan(kernels.top(states).response).tolist() == [False, True, False]
    assert Rows(kernels, [3]).run([0], [0]).isfinite().all()


def test_a_bias_table_in_use_is_kept_when_another_replaces_it():
    """A call may run while another thread needs a table of another length, or makes the same one."""
    tensors = decoder_tensors(MODELS["t5"])
    biases, kernels = Biases(tensors), NativeKernels(tensors, "float32")
    table = biases(8)
    kept = weakref.ref(table.biases[0])
    address = table.address
    biases(64)
    gc.collect()
    assert kept() is not None
    assert table.address == address
    rows = Rows(kernels, [3])
    arrays, _ = kernels.tensors_of(rows.cache, rows.sources)
    kept = weakref.ref(kernels._biases(rows.cache.capacity).biases[0])
    kernels._biases(2 * rows.cache.capacity)
    gc.collect()
    assert kept() is not None
    assert arrays.biases


def test_an_item_that_is_there_already_is_refused():
    rows = Rows(NativeKernels(decoder_tensors(MODELS["t5"]), "float32"), [3])
    rows.run([0], [0])
    with pytest.raises(ValueError, match="truncate first"):
        rows.run([0], [0])


def run_python(code: str, **environment: str) -> subprocess.CompletedProcess:
    root = Path(__file__).resolve().parents[2]
    path = os.pathsep.join([str(root / "src"), str(root), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": path, **environment},
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip


_MULTIPLY = """
import os, torch
from early_exit.linear import pack
torch.set_num_threads(2)
weight, inputs = torch.randn(2000, 500), torch.randn(20, 500)
product = pack(weight, "float32")
wanted = product(inputs)
"""


@pytest.mark.slow
def test_a_forked_process_has_threads_of_its_own():
    code = _MULTIPLY + (
        "child = os.fork()\n"
        "equal = torch.equal(product(inputs), wanted)\n"
        "if child == 0: os._exit(0 if equal else 1)\n"
        "assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0 and equal\n"
    )
    done = run_python(code)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_without_a_compiler_torch_decodes(tmp_path):
    code = (
        _MULTIPLY
        + "assert torch.allclose(wanted, inputs @ weight.T, atol=1e-3); print(type(product).__name__)"
    )
    done = run_python(code, CXX="/nowhere/c++", EARLY_EXIT_CACHE=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert done.stdout == "Linear\n"
    [line] = [line for line in done.stderr.splitlines() if "Warning" in line]
    assert "torch's kernels" in line
    assert "/nowhere/c++" in line
    done = run_python(code, EARLY_EXIT_KERNELS="torch")
    assert (done.stdout, done.stderr) == ("Linear\n", "")
    assert "allowed: native, torch" in run_python(code, EARLY_EXIT_KERNELS="fast").stderr


def test_a_compiler_that_fails_is_told_in_a_line(monkeypatch, tmp_path):
    compiler = tmp_path / "c++"
    compiler.write_text(
        "#!/bin/sh\n[ \"$1\" = --version ] && exit 0\necho 'x.cpp:1: error: no such flag' >&2\nexit 1\n"
    )
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    monkeypatch.setenv("EARLY_EXIT_CACHE", str(tmp_path / "cache"))
    with pytest.raises(build.BuildError, match="error: no such flag"):
        build.built_library()
    assert list((tmp_path / "cache").iterdir()) == []


def test_the_library_is_kept_for_its_sources():
    assert native_library() is native_library()
    assert build.built_library() == build.built_library()


@torch.no_grad()
@pytest.mark.parametrize("make", [TorchKernels, NativeKernels])
def test_logits_of_some_tokens_of_a_half_model_are_those_of_all(make):
    """The norm's weights are read in float32, as they are folded into the head."""
    kernels = make(decoder_tensors(odd_model(41, 2, 7, 13, 60, False).bfloat16()), "float32")
    states, some = torch.randn(5, 41), torch.randint(0, 60, (5, 3))
    wanted = kernels.logits(states).gather(1, some)
    torch.testing.assert_close(kernels.logits_of(states, some), wanted, atol=1e-5, rtol=1e-5)
