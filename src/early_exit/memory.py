"""What a batch attends to: keys and values of its own tokens, and of its sources.

Self-attention's cache is filled lazily. A token that left at layer l hands no keys and values to the
deeper layers; it leaves its state behind, and a deeper layer that a later token reaches computes them
then, for all waiting tokens of all rows in one product. That gives what CALM's immediate copying gives
(section 3.1), and nothing is computed for layers that no later token reaches.

Which positions wait is known on the host, so nothing here waits for the device.
"""

import numpy as np
import torch
from torch import Tensor

from early_exit.weights import DecoderWeights, normed

# Rows that attend are gathered where they are few; otherwise all rows attend and the result of the
# others is thrown away: gathering a row reads its cache, writes it, and reads it again.
_GATHER_BELOW = 1 / 3


def on_device(indices: np.ndarray, device: torch.device) -> Tensor:
    """Host indices on the device, without waiting for it."""
    return torch.from_numpy(indices).to(device, non_blocking=True)


def _select(tensor: Tensor, indices: np.ndarray) -> Tensor:
    """Rows of a tensor by host indices; the tensor itself where these are all its rows in order."""
    if len(indices) == tensor.shape[0]:
        return tensor
    return tensor[on_device(indices, tensor.device)]


def _attend(queries: Tensor, keys: Tensor, values: Tensor, bias: Tensor | None) -> Tensor:
    """T5's attention, without a scale. queries: [groups, heads, n, head_dim]; keys, values: [groups,
    heads, length, head_dim]; bias: added to the scores, or None. Returns [groups, heads, n, head_dim]."""
    scores = queries @ keys.transpose(-1, -2)  # [groups, heads, n, length]
    if bias is not None:
        scores = scores + bias
    return scores.softmax(-1) @ values


class TokenMemory:
    """Keys and values of the rows' own tokens at every layer, and the states of tokens that left."""

    def __init__(self, weights: DecoderWeights, rows: int, positions: int):
        self._weights = weights
        shape = (rows, weights.heads, positions, weights.head_dim)
        like = weights.embedding
        self._keys = [like.new_empty(shape) for _ in weights.layers]
        self._values = [like.new_empty(shape) for _ in weights.layers]
        self._exit_states = like.new_empty(rows, positions, weights.d_model)
        # Layer, row → so many leading positions have keys and values.
        self._filled = np.zeros((len(weights.layers), rows), dtype=np.int64)

    @property
    def rows(self) -> int:
        return self._filled.shape[1]

    def leave(self, rows: np.ndarray, position: int, states: Tensor) -> None:
        """Keeps the exit states [len(rows), d_model] of the tokens at a position."""
        if len(rows) == self.rows:
            self._exit_states[:, position] = states
        else:
            self._exit_states[on_device(rows, states.device), position] = states

    def fill(self, layer: int, rows: np.ndarray, position: int) -> None:
        """Gives the layer's keys and values to all positions before `position` that wait for them.

        Here FREE's parallel decoding can run the layer for these tokens instead.
        """
        waiting = [(row, at) for row in rows for at in range(self._filled[layer, row], position)]
        if waiting:
            at_rows, at_positions = on_device(np.array(waiting).T, self._exit_states.device)
            states = self._exit_states[at_rows, at_positions]  # [waiting, d_model]
            projected = self._weights.layers[layer].keys_values(normed(states, self._weights.epsilon))
            projected = projected.unflatten(-1, (2, self._weights.heads, self._weights.head_dim))
            self._keys[layer][at_rows, :, at_positions] = projected[:, 0]
            self._values[layer][at_rows, :, at_positions] = projected[:, 1]
        self._filled[layer, rows] = position

    def attend(self, layer: int, rows: np.ndarray, position: int, projected: Tensor) -> Tensor:
        """Self-attention of the tokens at a position, whose keys and values are kept.

        projected: [len(rows), 3 * inner], their queries, keys and values. Returns [len(rows), inner].
        """
        queries, keys, values = projected.unflatten(
            -1, (3, self._weights.heads, 1, self._weights.head_dim)
        ).unbind(1)  # each [rows, heads, 1, head_dim]
        all_rows = len(rows) == self.rows
        places = slice(None) if all_rows else on_device(rows, projected.device)
        self._keys[layer][places, :, position : position + 1] = keys
        self._values[layer][places, :, position : position + 1] = values
        self._filled[layer, rows] = position + 1

        length = position + 1
        all_keys, all_values = self._keys[layer][:, :, :length], self._values[layer][:, :, :length]
        bias = self._weights.layers[layer].bias[:, :length].flip(-1)[:, None]  # [heads, 1, length]
        if all_rows:
            return _attend(queries, all_keys, all_values, bias).flatten(1)
        if len(rows) < _GATHER_BELOW * self.rows:
            return _attend(queries, all_keys[places], all_values[places], bias).flatten(1)
        everyone = queries.new_zeros(self.rows, *queries.shape[1:])
        everyone[places] = queries
        # Rows that do not attend may hold anything up to here, NaN included; it stays in their row.
        return _attend(everyone, all_keys, all_values, bias)[places].flatten(1)

    def keep(self, rows: np.ndarray) -> None:
        """Drops all rows but these."""
        self._keys = [_select(keys, rows) for keys in self._keys]
        self._values = [_select(values, rows) for values in self._values]
        self._exit_states = _select(self._exit_states, rows)
        self._filled = self._filled[:, rows]


class SourceMemory:
    """Keys and values of the sources, a layer's computed when a token first reaches it.

    states: [sources, length, d_model], the encoder's output; mask: [sources, length] of 0 and 1, or None.
    row_sources: [rows], which source a row reads. Rows with the same source share its keys and values.
    """

    def __init__(self, weights: DecoderWeights, states: Tensor, mask: Tensor | None, row_sources: np.ndarray):
        self._weights = weights
        self._states = states
        self._bias = None
        if mask is not None and not bool((mask != 0).all()):
            lowest = torch.finfo(states.dtype).min
            self._bias = torch.zeros_like(mask, dtype=states.dtype).masked_fill(mask == 0, lowest)
            self._bias = self._bias[:, None, None]  # [sources, 1, 1, length]
        self._layers: list[tuple[Tensor, Tensor] | None] = [None] * len(weights.layers)
        self._row_sources = row_sources

    def attend(self, layer: int, rows: np.ndarray, queries: Tensor) -> Tensor:
        """Cross-attention. queries: [len(rows), inner] → [len(rows), inner]."""
        keys, values = self._keys_and_values(layer)
        bias, sources = self._bias, self._row_sources[rows]
        used = np.unique(sources)
        if len(used) < _GATHER_BELOW * len(keys):
            keys, values = _select(keys, used), _select(values, used)
            bias = bias if bias is None else _select(bias, used)
            sources = np.searchsorted(used, sources)
        queries = queries.unflatten(-1, (self._weights.heads, self._weights.head_dim))
        if len(rows) == len(keys) and (sources == np.arange(len(keys))).all():
            return _attend(queries[:, :, None], keys, values, bias).flatten(1)  # a row a source, in order
        # Rows of one source become several queries of one group.
        slots = _number_within(sources)
        places = tuple(on_device(index, queries.device) for index in (sources, slots))
        groups = queries.new_zeros(len(keys), int(slots.max()) + 1, *queries.shape[1:])
        groups[places] = queries  # [sources, slots, heads, head_dim]
        attended = _attend(groups.transpose(1, 2), keys, values, bias)  # [sources, heads, slots, head_dim]
        return attended.transpose(1, 2)[places].flatten(1)

    def keep(self, rows: np.ndarray) -> None:
        """Drops all rows but these, and the sources that none of them reads."""
        used, self._row_sources = np.unique(self._row_sources[rows], return_inverse=True)
        self._states = _select(self._states, used)
        self._bias = self._bias if self._bias is None else _select(self._bias, used)
        self._layers = [
            pair if pair is None else (_select(pair[0], used), _select(pair[1], used))
            for pair in self._layers
        ]

    def _keys_and_values(self, layer: int) -> tuple[Tensor, Tensor]:
        """Each [sources, heads, length, head_dim]."""
        pair = self._layers[layer]
        if pair is None:
            projected = self._weights.layers[layer].cross_keys_values(self._states.flatten(0, 1))
            projected = projected.view(
                *self._states.shape[:2], 2, self._weights.heads, self._weights.head_dim
            ).permute(2, 0, 3, 1, 4)  # [2, sources, heads, length, head_dim]
            pair = self._layers[layer] = (projected[0].contiguous(), projected[1].contiguous())
        return pair


def _number_within(groups: np.ndarray) -> np.ndarray:
    """Numbers the members of each group from 0, in order: [3, 5, 3] → [0, 0, 1]."""
    order = np.argsort(groups, kind="stable")
    ordered = groups[order]
    starts = np.searchsorted(ordered, ordered)
    numbers = np.empty_like(order)
    numbers[order] = np.arange(len(groups)) - starts
    return numbers
