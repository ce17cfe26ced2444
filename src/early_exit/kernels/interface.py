"""What the engine asks of arithmetic, and the plain description of a model that it gets.

A description holds no name of a model family: the adapter in `models` reads a family's modules into it.
Kernels pack the tensors as suits them and keep their own copies.

Tensors are float32 unless something else is said, weights of products are [out, in]. Host arrays are numpy's.
"""

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from early_exit.decoding.kv_cache import KVCache, SourceCache, on_device


@dataclass(frozen=True)
class StackSpec:
    """Sizes and switches of a stack of transformer layers.

    activation: name of the feed-forward's function, a key of `early_exit.kernels.torch_kernels.ACTIVATIONS`.
    gated: the feed-forward multiplies the activated half of its inner states with the other half.
    norm_epsilon: of the root-mean-square norms, which have weights and no offset.
    buckets, max_distance: of relative position bias (Raffel et al. 2020, section 2.1); causal: keys
        after the query's position are not seen, and all buckets serve the distance to earlier ones.
    """

    d_model: int
    heads: int
    head_dim: int
    d_ff: int
    activation: str
    gated: bool
    norm_epsilon: float
    buckets: int
    max_distance: int
    causal: bool


@dataclass(frozen=True)
class AttentionTensors:
    """norm: [d_model], of the input. queries, keys, values: [heads · head_dim, d_model], the last two read
    the encoder's output, without norm, in cross-attention. output: [d_model, heads · head_dim]. Scores are
    not
    scaled: models that scale fold that into `queries`.

    relative_bias: [buckets, heads]; None: none in cross-attention, the first layer's in self-attention.
    """

    norm: Tensor
    queries: Tensor
    keys: Tensor
    values: Tensor
    output: Tensor
    relative_bias: Tensor | None = None


@dataclass(frozen=True)
class LayerTensors:
    """One layer. cross_attention: None in an encoder. feed_forward_in: [d_ff, d_model], or two of these in
    one,
    [2 · d_ff, d_model], the activated half first, where gated. feed_forward_out: [d_model, d_ff]."""

    self_attention: AttentionTensors
    cross_attention: AttentionTensors | None
    feed_forward_norm: Tensor
    feed_forward_in: Tensor
    feed_forward_out: Tensor


@dataclass(frozen=True)
class StackTensors:
    """A stack of layers between an embedding [vocabulary, d_model] and a last norm [d_model]."""

    spec: StackSpec
    embedding: Tensor
    layers: tuple[LayerTensors, ...]
    final_norm: Tensor


@dataclass(frozen=True)
class DecoderTensors(StackTensors):
    """A decoder. An exit's logits are head · (final_norm(state) · head_scale); head: [vocabulary,
    d_model].

    exit_adapters: [L − 1, d_model, d_model], or None. The exit after a layer below full depth reads
    state + adapter · state in the state's place; deeper layers do not.
    """

    head: Tensor
    head_scale: float
    exit_adapters: Tensor | None = None


@dataclass(frozen=True)
class Items:
    """Tokens that go through layers together, in any order of rows; of one row by rising position.

    slots: [n] int64, the row of the cache; positions: [n] int64. An item sees its row's positions up to its
    own, itself included.
    """

    slots: np.ndarray
    positions: np.ndarray
    _moved: tuple[Tensor, Tensor] | None = field(default=None, init=False, repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.slots)

    def __getitem__(self, chosen) -> "Items":
        """Those that an index array or a mask [n] names."""
        return Items(self.slots[chosen], self.positions[chosen])

    def on(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Slots and positions on a device, where they are taken once."""
        moved = self._moved
        if moved is None or moved[0].device != device:
            moved = on_device(self.slots, device), on_device(self.positions, device)
            object.__setattr__(self, "_moved", moved)
        return moved


@dataclass(frozen=True)
class Top:
    """What a greedy choice and softmax response need of an exit's logits.

    tokens: [n] int64, the likeliest, the lowest number of equals. response: [n] float32, the gap between the
    two largest probabilities.
    """

    tokens: np.ndarray
    response: np.ndarray


class Shortlist(Protocol):
    """Some rows of the LM head, packed side by side. tokens: [n] int64, which ones, rising."""

    tokens: Tensor

    def logits(self, states: Tensor) -> Tensor:
        """Of these tokens. [items, d_model] → [items, n] float32."""
        ...

    def top(self, states: Tensor) -> Top:
        """What a greedy choice among these tokens needs; by the vocabulary's numbers. [items, d_model]."""
        ...


class Kernels(Protocol):
    """A decoder's arithmetic in one precision, on one device. Safe to use from several threads at once.

    dtype: of keys and values. norm_floor: √(d_model · ε) of the norms. fuses_top: whether
    `top` writes no logits, and so costs less than they do. Layers count from 1; states are raw
    outputs of a layer.
    """

    tensors: DecoderTensors
    precision: str
    device: torch.device
    dtype: torch.dtype
    norm_floor: Tensor
    fuses_top: bool

    def embed(self, tokens: np.ndarray) -> Tensor:
        """[n] int64 → [n, d_model] float32."""
        ...

    def run(
        self, items: Items, states: Tensor, first: int, last: int, cache: KVCache, sources: SourceCache
    ) -> Tensor:
        """Runs layers first + 1 to last. states: [n, d_model], after layer `first`. Returns those after
        `last`.

        At each layer keys and values of the items are put into the cache; before that, those of their rows'
        earlier positions that lack them are made from the states these left with (`KVCache.exit_states`).
        An item's result does not depend on the other items.
        """
        ...

    def adapted(self, layer: int, states: Tensor) -> Tensor:
        """What the exit after a layer reads instead of its outputs [n, d_model], by `tensors.exit_adapters`;
        the outputs themselves at full depth. `logits` and its like take what this gives."""
        ...

    def logits(self, states: Tensor) -> Tensor:
        """Of an exit. [n, d_model] → [n, vocabulary] float32."""
        ...

    def logits_of(self, states: Tensor, tokens: Tensor) -> Tensor:
        """The same of some tokens [n, K] int64 of each state. [n, d_model] → [n, K] float32."""
        ...

    def top(self, states: Tensor) -> Top:
        """The same, but only the two largest are told. [n, d_model]."""
        ...

    def shortlist(self, tokens: Tensor) -> Shortlist:
        """Of the tokens [n] int64, rising."""
        ...
