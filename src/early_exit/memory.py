"""What a batch attends to: keys and values of its own tokens, and of its sources.

The cache of its own tokens is filled lazily. A token that left at layer l hands no keys and values to the
deeper layers; it leaves its state behind, and a deeper layer that a later token reaches computes them
then, for all waiting tokens of all rows in one product. That gives what CALM's immediate copying gives
(section 3.1), and nothing is computed for layers that no later token reaches.

Which positions wait is known on the host, so nothing here waits for the device.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from early_exit.linear import Linear
from early_exit.rows import Rows, on_device, select
from early_exit.weights import DecoderWeights, normed

_SOURCE_TOKENS_AT_ONCE = 2048


class _KeysAndValues:
    """A layer's keys and values, [2, rows, heads, positions, head_dim].

    Decoding one row is some hundred calls of a few microseconds, so each view is made in a single one.
    """

    def __init__(self, tensor: Tensor):
        """tensor: contiguous, the whole of its storage."""
        self.tensor = tensor
        _, self._rows, self._heads, self._positions, self._head_dim = tensor.shape

    @classmethod
    def empty(cls, weights: "AttentionWeights", rows: int, positions: int) -> "_KeysAndValues":
        shape = (2, rows, weights.heads, positions, weights.head_dim)
        return cls(torch.empty(shape, dtype=weights.dtype, device=weights.norm_floor.device))

    def rows(self, places: slice | Tensor) -> tuple["_KeysAndValues", int, int]:
        """Where some rows are: the keys and values that hold them next to each other, the first's number
        there, and how many they are."""
        if isinstance(places, slice):
            return self, places.start, places.stop - places.start
        return _KeysAndValues(self.tensor.index_select(1, places)), 0, len(places)

    def keep(self, places: np.ndarray) -> "_KeysAndValues":
        """A copy of some rows."""
        return _KeysAndValues(self.tensor.index_select(1, on_device(places, self.tensor.device)))

    def put(self, places: slice | Tensor, position: int, own: Tensor) -> None:
        """Keeps keys and values [2, rows, heads, head_dim] of some rows at one position."""
        if not isinstance(places, slice):
            self.tensor.select(3, position)[:, places] = own
            return
        of_head = self._positions * self._head_dim
        of_row = self._heads * of_head
        strides = (self._rows * of_row, of_row, of_head, 1)
        begin = places.start * of_row + position * self._head_dim
        self.tensor.as_strided(own.shape, strides, begin).copy_(own)

    def until(self, first: int, rows: int, length: int) -> tuple[Tensor, Tensor]:
        """Keys and values of some rows at the first `length` positions: views [rows, heads, length,
        head_dim]."""
        of_head = self._positions * self._head_dim
        of_row = self._heads * of_head
        shape = (rows, self._heads, length, self._head_dim)
        strides = (of_row, of_head, self._head_dim, 1)
        keys = self.tensor.as_strided(shape, strides, first * of_row)
        return keys, self.tensor.as_strided(shape, strides, (self._rows + first) * of_row)


class LayerAttention(Protocol):
    """Self-attention of one layer. keys_values: d_model → 2 * inner of what `normed` gives; bias: [heads,
    positions] by distance, 0 last, or None."""

    keys_values: Linear
    bias: Tensor | None


class AttentionWeights(Protocol):
    """Layers that attend to the tokens before: those of a decoder, or of an exit head."""

    layers: Sequence[LayerAttention]
    heads: int
    head_dim: int
    norm_floor: Tensor
    dtype: torch.dtype


class ExitStates:
    """The states that tokens left with, [rows, positions, d_model]."""

    def __init__(self, weights: DecoderWeights, rows: int, positions: int):
        self.tensor = torch.empty(rows, positions, weights.d_model, device=weights.embedding.device)

    def leave(self, rows: Rows, position: int, states: Tensor) -> None:
        """Keeps the exit states [len(rows), d_model] of the tokens at a position."""
        for members, places, _ in rows.token_stretches:
            self.tensor[places, position] = states[members]

    def keep(self, places: np.ndarray) -> None:
        """Drops all rows but these."""
        self.tensor = select(self.tensor, places)


class TokenMemory:
    """Keys and values of the rows' own tokens at every layer; of tokens that left, from their exit states."""

    def __init__(self, weights: AttentionWeights, exit_states: ExitStates):
        self._weights = weights
        self._exit_states = exit_states
        rows, positions, _ = exit_states.tensor.shape
        self._caches = [_KeysAndValues.empty(weights, rows, positions) for _ in weights.layers]
        # So many leading positions have keys and values: in every row, by layer; and by layer and row, which
        # counts where it is more.
        self._filled_in_all = [0] * len(weights.layers)
        self._filled = np.zeros((len(weights.layers), rows), dtype=np.int64)

    @property
    def rows(self) -> int:
        return self._filled.shape[1]

    def fill(self, layer: int, rows: Rows, position: int) -> None:
        """Gives the layer's keys and values to all positions before `position` that wait for them.

        Here FREE's parallel decoding can run the layer for these tokens instead.
        """
        if len(rows) == self.rows:
            complete = self._filled_in_all[layer] == position
            if not complete:
                first = np.maximum(self._filled[layer], self._filled_in_all[layer])
            self._filled_in_all[layer] = position + 1  # with the token about to attend
            if complete:
                return
        else:
            first = np.maximum(self._filled[layer, rows.places], self._filled_in_all[layer])
            self._filled[layer, rows.places] = position + 1
        counts = position - first  # [n]
        if not counts.any():
            return
        # [rows, positions, 2, heads, head_dim]
        by_position = self._caches[layer].tensor.permute(1, 3, 0, 2, 4)
        if len(rows.token_stretches) == 1 and (counts == counts[0]).all():
            where = (rows.token_stretches[0].places, slice(first[0], position))
        else:
            at_rows = np.repeat(rows.places, counts)
            starts = np.repeat(first - (np.cumsum(counts) - counts), counts)
            at_positions = np.arange(len(at_rows)) + starts
            device = self._exit_states.tensor.device
            where = (on_device(at_rows, device), on_device(at_positions, device))
        states = self._exit_states.tensor[where]  # [..., d_model]
        projected = self._weights.layers[layer].keys_values(
            normed(states.reshape(-1, states.shape[-1]), self._weights.norm_floor)
        )  # [waiting, 2 * inner]
        heads, head_dim = self._weights.heads, self._weights.head_dim
        by_position[where] = projected.view(*states.shape[:-1], 2, heads, head_dim)

    def forget(self, layer: int, rows: Rows, position: int) -> None:
        """Takes back what the layer keeps of the rows' tokens at `position`: they wait again."""
        self._filled_in_all[layer] = min(self._filled_in_all[layer], position)
        self._filled[layer, rows.places] = np.minimum(self._filled[layer, rows.places], position)

    def attend(self, layer: int, rows: Rows, position: int, projected: Tensor) -> Tensor:
        """Self-attention of the tokens at `position`, whose keys and values it keeps.

        projected: [n, 3 * inner or more], queries, keys and values first. Returns [n, inner].
        """
        heads, head_dim = self._weights.heads, self._weights.head_dim
        rows_at_hand, inner, length = len(projected), heads * head_dim, position + 1
        bias, width = self._weights.layers[layer].bias, projected.shape[1]
        if bias is not None:
            bias = bias[None, :, None, bias.shape[1] - length :]  # [1, heads, 1, length]
        queries = projected.as_strided((rows_at_hand, heads, 1, head_dim), (width, head_dim, 1, 1))
        own = projected.as_strided(  # keys and values [2, n, heads, head_dim]
            (2, rows_at_hand, heads, head_dim), (inner, width, head_dim, 1), inner
        )
        attended = []
        whole = len(rows.token_stretches) == 1
        for members, places, _ in rows.token_stretches:
            self._caches[layer].put(places, position, own if whole else own[:, members])
            cache, first, number = self._caches[layer].rows(places)
            keys, values = cache.until(first, number, length)
            asking = queries if whole else queries[members]
            attended.append(scaled_dot_product_attention(asking, keys, values, attn_mask=bias, scale=1.0))
        attended = attended[0] if whole else torch.cat(attended)  # [n, heads, 1, head_dim]
        return attended.reshape(rows_at_hand, inner)

    def keep(self, places: np.ndarray) -> None:
        """Drops all rows but these."""
        self._caches = [cache.keep(places) for cache in self._caches]
        self._filled = self._filled[:, places]


class SourceMemory:
    """Keys and values of the sources, computed when a row that reads them first reaches a layer.

    states: [sources, length, d_model], the encoder's output; mask: [sources, length] of 0 and 1, or None.
    row_sources: [rows], which source a row reads. Rows with the same source share its keys and values.
    """

    def __init__(self, weights: DecoderWeights, states: Tensor, mask: Tensor | None, row_sources: np.ndarray):
        self._weights = weights
        self._states = states
        self._bias = None
        if mask is not None and not bool((mask != 0).all()):
            lowest = torch.finfo(weights.dtype).min
            self._bias = torch.zeros_like(mask, dtype=weights.dtype).masked_fill(mask == 0, lowest)
            self._bias = self._bias[:, None, None]  # [sources, 1, 1, length]
        self._caches: list[_KeysAndValues | None] = [None] * len(weights.layers)
        self._filled = np.zeros((len(weights.layers), len(states)), dtype=bool)
        self._complete = [False] * len(weights.layers)
        self.row_sources = row_sources

    def attend(self, layer: int, rows: Rows, queries: Tensor) -> Tensor:
        """Cross-attention. queries: [n, inner] → [n, inner]."""
        self._fill(layer, rows)
        heads, head_dim = self._weights.heads, self._weights.head_dim
        length = self._states.shape[1]
        attended = []
        whole = len(rows.source_stretches) == 1
        for members, places, each in rows.source_stretches:
            cache, first, number = self._caches[layer].rows(places)
            keys, values = cache.until(first, number, length)
            asking = queries if whole else queries[members]
            asking = asking.view(number, each, heads, head_dim).transpose(1, 2)
            bias = None if self._bias is None else self._bias[places]  # [sources, 1, 1, length]
            result = scaled_dot_product_attention(asking, keys, values, attn_mask=bias, scale=1.0)
            # [sources, heads, each, head_dim]
            attended.append(result.transpose(1, 2).reshape(-1, heads * head_dim))
        return attended[0] if whole else torch.cat(attended)

    def keep(self, places: np.ndarray) -> None:
        """Drops all rows but these, and the sources that none of them reads."""
        used, self.row_sources = np.unique(self.row_sources[places], return_inverse=True)
        self._states = select(self._states, used)
        self._bias = self._bias if self._bias is None else select(self._bias, used)
        self._filled = self._filled[:, used]
        self._caches = [cache if cache is None else cache.keep(used) for cache in self._caches]

    def _fill(self, layer: int, rows: Rows) -> None:
        """Gives the layer's keys and values to those of the rows' sources that lack them."""
        if self._complete[layer] or self._filled[layer, rows.sources].all():
            return
        heads, head_dim = self._weights.heads, self._weights.head_dim
        missing = rows.sources[~self._filled[layer, rows.sources]]
        self._filled[layer, missing] = True
        self._complete[layer] = bool(self._filled[layer].all())
        if self._caches[layer] is None:
            self._caches[layer] = _KeysAndValues.empty(self._weights, *self._states.shape[:2])
        # In parts, whose intermediate results stay small.
        at_once = max(1, _SOURCE_TOKENS_AT_ONCE // self._states.shape[1])
        for first in range(0, len(missing), at_once):
            part = missing[first : first + at_once]
            states = select(self._states, part)  # [part, length, d_model]
            projected = self._weights.layers[layer].cross_keys_values(states.flatten(0, 1))
            projected = projected.view(*states.shape[:2], 2, heads, head_dim).permute(2, 0, 3, 1, 4)
            together = part[-1] - part[0] == len(part) - 1
            where = slice(part[0], part[-1] + 1) if together else on_device(part, states.device)
            self._caches[layer].tensor[:, where] = projected  # [2, part, heads, length, head_dim]


def check_memory(
    weights: DecoderWeights,
    exit_head: AttentionWeights | None,
    rows: int,
    positions: int,
    sources: int,
    length: int,
) -> None:
    """Raises ValueError where the memories of a batch would need more than the device has free."""
    inner, layers = weights.heads * weights.head_dim, len(weights.layers)
    needed = 2 * layers * inner * weights.dtype.itemsize * (rows * positions + sources * length)
    needed += 4 * rows * positions * weights.d_model  # the states of tokens that left
    if exit_head is not None:
        inner, layers = exit_head.heads * exit_head.head_dim, len(exit_head.layers)
        needed += 2 * layers * inner * exit_head.dtype.itemsize * rows * positions
    free = free_memory(weights.embedding.device)
    if needed > free:
        raise ValueError(
            f"keys and values of {rows} rows of {positions} tokens over {sources} sources of {length} "
            f"take {needed / 2**30:.1f} GiB, {free / 2**30:.1f} GiB are free: decode fewer rows at a time"
        )


def free_memory(device: torch.device) -> int:
    """Bytes that can be allocated; where the system does not say, all that the machine has."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        pass
    if hasattr(os, "sysconf"):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return sys.maxsize
