"""Exit heads: small classifiers that tell from a layer's state whether its exit agrees with full depth.

This is their side at decoding. A head reads the state as `early_exit.kernels.torch_kernels.normed` gives it,
or one causal attention layer over the states that all tokens so far had at its layer. A token that left
before is seen there with its exit state, as self-attention sees it, and keys and values are kept the same
way: a token costs one step.

References: CALM, Schuster et al. 2022, section 3.5 (linear head).
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from early_exit.decoding.kv_cache import CacheSizes, KVCache
from early_exit.kernels.interface import Items
from early_exit.kernels.native.exit_head import HeadParts, NativeExitHeads
from early_exit.kernels.native.matrix import NativeMatrix
from early_exit.kernels.torch_kernels import attend_to_own, attention_kernels, causal_mask, normed
from early_exit.linear import Linear, NativeLinear, has_native

HEAD_NAMES = ("vanilla_classifier", "MLP", "transformer_MLP_<width>", "transformer_linear_<width>")


@dataclass(frozen=True)
class HeadKind:
    """attention_width: of the attention layer, None for a head without; mlp: whether a hidden layer of the
    width of its input, with max(0, ·), comes before the last, linear one."""

    attention_width: int | None
    mlp: bool


def head_kind(name: str) -> HeadKind | None:
    """The kind of head that a measure's name stands for, None where it stands for none.

    Raises ValueError for a width that is no whole number from 1 on.
    """
    if name in ("vanilla_classifier", "MLP"):
        return HeadKind(None, mlp=name == "MLP")
    match = re.fullmatch(r"transformer_(MLP|linear)_(.*)", name)
    if match is None:
        return None
    if not re.fullmatch(r"[1-9][0-9]*", match[2]):
        raise ValueError(f"exit head {name!r}: width {match[2]!r} is not a whole number from 1 on")
    return HeadKind(int(match[2]), mlp=match[1] == "MLP")


@dataclass(frozen=True)
class LayerHead:
    """The head of one layer. `inner` is heads * head_dim.

    projections: d_model → 4 * inner of what `normed` gives: queries, keys, values, and the token's own part,
    which attention is added to; None without attention. keys_values: the second and third of them.
    hidden: features → features with max(0, ·), or None. output: [features] and offset: scalar, float32.
    """

    projections: Linear | None
    keys_values: Linear | None
    hidden: Linear | None
    output: Tensor
    offset: Tensor
    bias: None = None  # of positions: attention here has none


@dataclass(frozen=True)
class HeadWeights:
    """The exit heads of layers 1 to L − 1, packed for decoding; a shared head stands there L − 1 times."""

    layers: tuple[LayerHead, ...]
    heads: int
    head_dim: int
    norm_floor: Tensor
    dtype: torch.dtype

    @cached_property
    def native(self) -> NativeExitHeads | None:
        """The same compiled, where the library has its products."""
        if not has_native(self.layers[0].output.device):
            return None
        layers = [
            HeadParts(
                _matrix(layer.projections),
                _matrix(layer.keys_values),
                _matrix(layer.hidden),
                layer.output,
                layer.offset.item(),
            )
            for layer in self.layers
        ]
        return NativeExitHeads(layers, self.heads, self.head_dim, self.norm_floor.item())


def _matrix(product: Linear | None) -> NativeMatrix | None:
    """What a product was packed into, where there are compiled kernels."""
    return product.matrix if isinstance(product, NativeLinear) else None


class HeadRun:
    """An exit head while rows are decoded. Slots and positions are those of the rows' own cache."""

    def __init__(self, weights: HeadWeights, cache: KVCache):
        self.weights = weights
        self.attends = weights.layers[0].projections is not None
        self._rows_cache, self._cache = cache, None
        if self.attends:
            slots, _, d_model = cache.exit_states.shape
            sizes = CacheSizes(len(weights.layers), slots, weights.heads, weights.head_dim, d_model)
            self._cache = KVCache(sizes, weights.dtype, cache.exit_states.device, exit_states_of=cache)

    @property
    def cache(self) -> KVCache | None:
        """What attention keeps of the rows, with as much room as their own cache; None without attention."""
        if self._cache is not None:
            self._cache.reserve(self._rows_cache.capacity)
        return self._cache

    def log_odds(self, layer: int, items: Items, states: Tensor) -> Tensor:
        """Log-odds [n] float32 that the exit after `layer` (from 1) agrees with full depth.

        states: [n, d_model], the layer's output for these items, whose keys and values the head keeps.
        """
        if self.weights.native is not None:
            return self.weights.native.log_odds(layer, items, states, self.cache)
        head = self.weights.layers[layer - 1]
        features = normed(states, self.weights.norm_floor)
        if self.cache is not None:
            projected = head.projections(features)  # [n, 4 * inner]
            *attention, own = projected.chunk(4, dim=-1)
            with attention_kernels(self.weights.dtype, states.device):
                attended = attend_to_own(
                    layer - 1,
                    items,
                    states,
                    self.cache,
                    project=lambda _: self._by_head(attention),
                    fill=lambda waiting: self._by_head(
                        head.keys_values(normed(waiting, self.weights.norm_floor)).chunk(2, dim=-1)
                    ),
                    mask=causal_mask(items, None, states.device),
                )
            features = own + attended
        if head.hidden is not None:
            features = head.hidden(features)
        return features.float() @ head.output + head.offset

    def truncate(self, slots: np.ndarray, lengths: np.ndarray | int) -> None:
        """Forgets later positions of some rows."""
        if self._cache is not None:
            self._cache.truncate(slots, lengths)

    def _by_head(self, parts: Sequence[Tensor]) -> Tensor:
        """Tensors [n, inner] as one, [parts, n, heads, head_dim]."""
        shape = (len(parts), len(parts[0]), self.weights.heads, self.weights.head_dim)
        return torch.stack(tuple(parts)).to(self.weights.dtype).view(shape)
