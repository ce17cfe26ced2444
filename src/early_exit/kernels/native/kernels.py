"""`early_exit.kernels.interface.Kernels` in C++, for CPUs.

An item's result is bit for bit the same whatever else a call holds.
"""

import ctypes
import math
from dataclasses import dataclass
from weakref import finalize

import numpy as np
import torch
from torch import Tensor

from early_exit.decoding.kv_cache import KVCache, SourceCache
from early_exit.kernels.interface import DecoderTensors, Items, LayerTensors, StackTensors, Top
from early_exit.kernels.native.caches import cache_tensors, item_arrays, source_tensors
from early_exit.kernels.native.head import NativeHead
from early_exit.kernels.native.library import (
    KINDS,
    CacheTensors,
    Sizes,
    SourceTensors,
    check,
    floats,
    native_library,
)
from early_exit.kernels.native.matrix import NativeMatrix
from early_exit.kernels.native.screen import Screen
from early_exit.kernels.relative_bias import bias_by_distance
from early_exit.kernels.torch_kernels import normed

WORTH_SCREENING = 2**19  # weights of an LM head from which on its int8 copy finds tokens faster


class NativeKernels:
    """A decoder's arithmetic in one of `early_exit.linear.PRECISIONS`. int8 and int4 are the weights' types:
    inputs are rounded to integers of 11 to 13 bits, by the product's length, with a scale for each item.
    w8a8 rounds inputs to 8 bits, and keys and values to bfloat16. The LM head and the adapters of int4 and
    w8a8 are in int8."""

    fuses_top = True

    def __init__(self, tensors: DecoderTensors, precision: str):
        spec = tensors.spec
        self.tensors, self.precision = tensors, precision
        self.device = torch.device("cpu")
        self.dtype = torch.bfloat16 if precision in ("bfloat16", "w8a8") else torch.float32
        self.norm_floor = torch.tensor(math.sqrt(spec.d_model * spec.norm_epsilon))
        self.embedding = floats(tensors.embedding)
        self._library = native_library()
        self.decoder = self._library.ee_decoder(ctypes.byref(Sizes.of(spec)), len(tensors.layers))
        if self.decoder is None:
            raise MemoryError("the kernels have no memory left")
        finalize(self, self._library.ee_free_decoder, self.decoder)
        pack_layers(tensors, precision, self._library.ee_set_decoder_matrix, self.decoder)
        self.head_precision = "int8" if precision in ("int4", "w8a8") else precision
        head, kind = self.folded_head(), KINDS[self.head_precision]
        check(self._library.ee_set_head(self.decoder, kind, head.data_ptr(), *head.shape))
        self.head = NativeHead(self._library.ee_head(self.decoder), len(head), spec.norm_epsilon)
        adapters = () if tensors.exit_adapters is None else tensors.exit_adapters
        self.adapters = [NativeMatrix(adapter, self.head_precision) for adapter in adapters]
        # Through which the loop finds tokens: the same ones, read faster.
        worth = self.head_precision == "float32" and head.numel() >= WORTH_SCREENING
        self.token_screen = Screen(head, spec.norm_epsilon, self.head, tokens_only=True) if worth else None
        self._biases = Biases(tensors)

    def folded_head(self, tokens: Tensor | slice = slice(None)) -> Tensor:
        """Rows of the LM head with the norm before them. [n, d_model] float32."""
        tensors = self.tensors
        return floats(tensors.head[tokens] * tensors.final_norm.float() * tensors.head_scale)

    def embed(self, tokens: np.ndarray) -> Tensor:
        return self.embedding[torch.from_numpy(tokens)]

    def run(
        self, items: Items, states: Tensor, first: int, last: int, cache: KVCache, sources: SourceCache
    ) -> Tensor:
        if first >= last:
            return states
        states = states.to(torch.float32, copy=True, memory_format=torch.contiguous_format)
        arrays = item_arrays(items)
        own, other = self.tensors_of(cache, sources)
        status = self._library.ee_run(
            self.decoder, torch.get_num_threads(), arrays, states.data_ptr(), first, last, own, other
        )
        check(status)
        return states

    def tensors_of(self, cache: KVCache, sources: SourceCache) -> tuple[CacheTensors, SourceTensors]:
        """The caches as the library takes them; both must outlive these, which hold on to the rest."""
        biases = self._biases(cache.capacity)
        own = cache_tensors(cache, biases.addresses)
        own.biases_kept = biases
        return own, source_tensors(sources)

    def adapted(self, layer: int, states: Tensor) -> Tensor:
        return states if layer > len(self.adapters) else states + self.adapters[layer - 1](states)

    def logits(self, states: Tensor) -> Tensor:
        return self.head.logits(states)

    def logits_of(self, states: Tensor, tokens: Tensor) -> Tensor:
        tensors = self.tensors
        inputs = normed(states, self.norm_floor) * math.sqrt(tensors.spec.d_model)
        if self.head_precision == "bfloat16":  # whose rows are rounded with the norm folded in
            rows = self.folded_head(tokens).bfloat16().float()
        else:
            rows = floats(tensors.head[tokens])
            inputs = inputs * (tensors.final_norm.float() * tensors.head_scale)
        return torch.bmm(rows, inputs[:, :, None])[:, :, 0]  # [n, K, d_model] · [n, d_model, 1]

    def top(self, states: Tensor) -> Top:
        return self.head.top(states)

    def shortlist(self, tokens: Tensor) -> "NativeShortlist":
        return NativeShortlist(self, tokens)

    def screen(self) -> Screen:
        head = self.folded_head()
        if self.token_screen is not None:
            self.token_screen.bound_responses(head)
            return self.token_screen
        own = self.head if self.head_precision == "float32" else None
        return Screen(head, self.tensors.spec.norm_epsilon, own)


class NativeShortlist:
    """`early_exit.kernels.interface.Shortlist` of native kernels, its rows packed once more, side by side."""

    def __init__(self, kernels: NativeKernels, tokens: Tensor):
        self.tokens = tokens
        self.numbers = np.ascontiguousarray(tokens.numpy())
        self.matrix = NativeMatrix(kernels.folded_head(tokens), kernels.head_precision)
        self._head = NativeHead(self.matrix.address, len(tokens), kernels.tensors.spec.norm_epsilon)

    def logits(self, states: Tensor) -> Tensor:
        return self._head.logits(states)

    def top(self, states: Tensor) -> Top:
        top = self._head.top(states)
        return Top(self.numbers[top.tokens], top.response)


def pack_layers(tensors: StackTensors, precision: str, set_matrix, stack: int) -> None:
    """Gives a stack of the library the matrices of all layers, by the order of `Layer` in layers.h."""
    for number, layer in enumerate(tensors.layers):
        for which, weight in enumerate(_matrices(layer, tensors.spec.gated)):
            if weight is not None:
                weight = floats(weight)
                check(set_matrix(stack, number, which, KINDS[precision], weight.data_ptr(), *weight.shape))


def _matrices(layer: LayerTensors, gated: bool) -> list[Tensor | None]:
    """The weights of norms are folded into the products after them."""
    own, cross = layer.self_attention, layer.cross_attention
    norm = own.norm.float()
    matrices = [own.queries * norm, own.keys * norm, own.values * norm, own.output]
    if cross is None:
        matrices += [None] * 4
    else:
        matrices += [cross.queries * cross.norm.float(), cross.keys, cross.values, cross.output]
    inner = layer.feed_forward_in * layer.feed_forward_norm.float()
    activated, gate = inner.chunk(2) if gated else (inner, None)
    return [*matrices, activated, gate, layer.feed_forward_out]


@dataclass(frozen=True)
class BiasTable:
    """Biases of all layers for `longest` positions. Whoever gives the address away holds on to the table."""

    longest: int
    biases: list[Tensor | None]
    addresses: np.ndarray

    @property
    def address(self) -> int:
        return self.addresses.ctypes.data


class Biases:
    """Relative position biases as the library takes them, for a number of positions at a time."""

    def __init__(self, tensors: StackTensors):
        tables = [layer.self_attention.relative_bias for layer in tensors.layers]
        self._tables = [tables[0] if table is None else table for table in tables]
        self._spec = tensors.spec
        self._made = BiasTable(-1, [], np.empty(0))

    def __call__(self, longest: int) -> BiasTable:
        """In the order of keys: causal ones are [heads, longest], the query's own last. Null for a layer
        without any."""
        table = self._made  # one read: another thread may replace it
        if table.longest != longest:
            table = self._made = self._make(longest)
        return table

    def _make(self, longest: int) -> BiasTable:
        known: dict[int, Tensor] = {}
        spec = self._spec
        for table in self._tables:
            if table is not None and id(table) not in known:
                bias = bias_by_distance(table.float().cpu(), spec.max_distance, spec.causal, longest)
                known[id(table)] = (bias.flip(1) if spec.causal else bias).contiguous()
        biases = [None if table is None else known[id(table)] for table in self._tables]
        addresses = np.array([0 if bias is None else bias.data_ptr() for bias in biases], np.uint64)
        return BiasTable(longest, biases, addresses)
