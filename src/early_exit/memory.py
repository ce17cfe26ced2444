"""What a batch attends to: keys and values of its own tokens, and of its sources.

Self-attention's cache is filled lazily. A token that left at layer l hands no keys and values to the
deeper layers; it leaves its state behind, and a deeper layer that a later token reaches computes them
then, for all waiting tokens of all rows in one product. That gives what CALM's immediate copying gives
(section 3.1), and nothing is computed for layers that no later token reaches.

Which positions wait is known on the host, so nothing here waits for the device.
"""

import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from early_exit.rows import Rows, on_device, select
from early_exit.weights import DecoderWeights, normed


class TokenMemory:
    """Keys and values of the rows' own tokens at every layer, and the states of tokens that left."""

    def __init__(self, weights: DecoderWeights, rows: int, positions: int):
        self._weights = weights
        shape = (2, rows, weights.heads, positions, weights.head_dim)
        device = weights.embedding.device
        self._caches = [torch.empty(shape, dtype=weights.dtype, device=device) for _ in weights.layers]
        self._exit_states = torch.empty(rows, positions, weights.d_model, device=device)
        # Layer, row → so many leading positions have keys and values.
        self._filled = np.zeros((len(weights.layers), rows), dtype=np.int64)

    @property
    def rows(self) -> int:
        return self._filled.shape[1]

    def leave(self, rows: Rows, position: int, states: Tensor) -> None:
        """Keeps the exit states [len(rows), d_model] of the tokens at a position."""
        for members, places, _ in rows.token_stretches:
            self._exit_states[places, position] = states[members]

    def fill(self, layer: int, rows: Rows, position: int) -> None:
        """Gives the layer's keys and values to all positions before `position` that wait for them.

        Here FREE's parallel decoding can run the layer for these tokens instead.
        """
        first = self._filled[layer, rows.places]  # [n]
        counts = position - first
        self._filled[layer, rows.places] = position + 1  # with the token about to attend
        if not counts.any():
            return
        by_position = self._caches[layer].permute(1, 3, 0, 2, 4)  # [rows, positions, 2, heads, head_dim]
        if len(rows.token_stretches) == 1 and (counts == counts[0]).all():
            where = (rows.token_stretches[0].places, slice(first[0], position))
        else:
            at_rows = np.repeat(rows.places, counts)
            starts = np.repeat(first - (np.cumsum(counts) - counts), counts)
            at_positions = np.arange(len(at_rows)) + starts
            device = self._exit_states.device
            where = (on_device(at_rows, device), on_device(at_positions, device))
        states = self._exit_states[where]  # [..., d_model]
        projected = self._weights.layers[layer].keys_values(
            normed(states.reshape(-1, states.shape[-1]), self._weights.norm_floor)
        )  # [waiting, 2 * inner]
        heads, head_dim = self._weights.heads, self._weights.head_dim
        by_position[where] = projected.view(*states.shape[:-1], 2, heads, head_dim)

    def attend(self, layer: int, rows: Rows, position: int, projected: Tensor) -> Tensor:
        """Self-attention of the tokens at `position`, whose keys and values it keeps.

        projected: [n, 3 * inner], queries, keys and values. Returns [n, inner].
        """
        heads, head_dim = self._weights.heads, self._weights.head_dim
        projected = projected.view(-1, 3, heads, head_dim)
        bias = self._weights.layers[layer].bias
        bias = bias.narrow(1, bias.shape[1] - position - 1, position + 1)  # [heads, length]
        attended = []
        for members, places, _ in rows.token_stretches:
            own = projected[members]
            cache = self._caches[layer][:, places]  # [2, n, heads, positions, head_dim]
            if isinstance(places, slice):
                cache.select(3, position).copy_(own[:, 1:].transpose(0, 1))
            else:  # gathered: a copy
                self._caches[layer].select(3, position)[:, places] = own[:, 1:].transpose(0, 1)
                cache.select(3, position).copy_(own[:, 1:].transpose(0, 1))
            keys, values = cache.narrow(3, 0, position + 1).flatten(1, 2)  # [n * heads, length, head_dim]
            queries = own[:, 0].reshape(-1, 1, head_dim)  # [n * heads, 1, head_dim]
            scores = torch.bmm(queries, keys.transpose(1, 2)).view(-1, heads, position + 1).add_(bias)
            weights = scores.softmax(-1).view(-1, 1, position + 1)
            attended.append(torch.bmm(weights, values).view(len(own), heads * head_dim))
        return attended[0] if len(attended) == 1 else torch.cat(attended)

    def keep(self, places: np.ndarray) -> None:
        """Drops all rows but these."""
        self._caches = [select(cache.transpose(0, 1), places).transpose(0, 1) for cache in self._caches]
        self._exit_states = select(self._exit_states, places)
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
        self._caches: list[Tensor | None] = [None] * len(weights.layers)
        self._filled = np.zeros((len(weights.layers), len(states)), dtype=bool)
        self.row_sources = row_sources

    def attend(self, layer: int, rows: Rows, queries: Tensor) -> Tensor:
        """Cross-attention. queries: [n, inner] → [n, inner]."""
        self._fill(layer, rows)
        heads, head_dim = self._weights.heads, self._weights.head_dim
        attended = []
        for members, places, each in rows.source_stretches:
            keys, values = self._caches[layer][:, places].flatten(1, 2)  # [sources * heads, length, head_dim]
            own = queries[members].view(-1, each, heads, head_dim)
            own = own.transpose(1, 2).reshape(-1, each, head_dim)  # [sources * heads, each, head_dim]
            scores = torch.bmm(own, keys.transpose(1, 2))  # [sources * heads, each, length]
            if self._bias is not None:
                scores.view(-1, heads, *scores.shape[1:]).add_(self._bias[places])
            result = torch.bmm(scores.softmax(-1), values).view(-1, heads, each, head_dim)
            attended.append(result.transpose(1, 2).reshape(-1, heads * head_dim))
        return attended[0] if len(attended) == 1 else torch.cat(attended)

    def keep(self, places: np.ndarray) -> None:
        """Drops all rows but these, and the sources that none of them reads."""
        used, self.row_sources = np.unique(self.row_sources[places], return_inverse=True)
        self._states = select(self._states, used)
        self._bias = self._bias if self._bias is None else select(self._bias, used)
        self._filled = self._filled[:, used]
        self._caches = [
            cache if cache is None else select(cache.transpose(0, 1), used).transpose(0, 1)
            for cache in self._caches
        ]

    def _fill(self, layer: int, rows: Rows) -> None:
        """Gives the layer's keys and values to those of the rows' sources that lack them."""
        if self._filled[layer, rows.sources].all():
            return
        heads, head_dim = self._weights.heads, self._weights.head_dim
        missing = rows.sources[~self._filled[layer, rows.sources]]
        self._filled[layer, missing] = True
        states = select(self._states, missing)  # [missing, length, d_model]
        projected = self._weights.layers[layer].cross_keys_values(states.flatten(0, 1))
        projected = projected.view(*states.shape[:2], 2, heads, head_dim).permute(2, 0, 3, 1, 4)
        if len(missing) == len(self._states):
            self._caches[layer] = projected.contiguous()  # [2, sources, heads, length, head_dim]
            return
        if self._caches[layer] is None:
            shape = (2, len(self._states), heads, self._states.shape[1], head_dim)
            self._caches[layer] = projected.new_empty(shape)
        self._caches[layer][:, on_device(missing, states.device)] = projected


def check_memory(weights: DecoderWeights, rows: int, positions: int, sources: int, length: int) -> None:
    """Raises ValueError where both memories of a batch would need more than the device has free."""
    inner, layers = weights.heads * weights.head_dim, len(weights.layers)
    needed = 2 * layers * inner * weights.dtype.itemsize * (rows * positions + sources * length)
    needed += 4 * rows * positions * weights.d_model  # the states of tokens that left
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
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
