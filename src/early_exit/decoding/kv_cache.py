"""What tokens attend to: keys and values of their own row, by (row, position), and those of its source.

A row of a batch lives in a slot. A token that left at an early layer has no keys and values at the deeper
ones; it leaves its state behind (`exit_states`), and they are made from that when a later token of the row
goes there: CALM's state propagation (Schuster et al. 2022, section 3.1), deferred. The causal rule: an item
sees its row's positions up to its own; `KVCache.enter` says which of them have to be filled first.

Which positions are filled is known on the host, so nothing here waits for the device.
"""

import os
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

_FIRST_POSITIONS = 32  # room for so many at the start; twice as many whenever it runs out


class CacheSizes(NamedTuple):
    """layers, and rows (`slots`); heads of attention, of `head_dim` each; d_model: of a state."""

    layers: int
    slots: int
    heads: int
    head_dim: int
    d_model: int


class KVCache:
    """Keys and values of the rows' own tokens.

    layers: a tensor [2, slots, heads, capacity, head_dim] each, keys and values. filled: [layers, slots]
    int64, so many leading positions of a row have them. exit_states: [slots, capacity, d_model] float32.
    """

    def __init__(
        self,
        sizes: CacheSizes,
        dtype: torch.dtype,
        device: torch.device,
        exit_states_of: "KVCache | None" = None,
    ):
        """exit_states_of: another cache of the same rows, whose exit states are these ones' too."""
        layers, slots, heads, head_dim, d_model = sizes
        capacity = _FIRST_POSITIONS if exit_states_of is None else exit_states_of.capacity
        # Zeros: what is masked in attention is multiplied with 0, and must not be NaN.
        self.layers = [
            torch.zeros(2, slots, heads, capacity, head_dim, dtype=dtype, device=device)
            for _ in range(layers)
        ]
        self._exit_states_of = exit_states_of
        if exit_states_of is None:
            self._exit_states = torch.zeros(slots, capacity, d_model, device=device)
        self.filled = np.zeros((layers, slots), dtype=np.int64)

    @property
    def exit_states(self) -> Tensor:
        return self._exit_states if self._exit_states_of is None else self._exit_states_of.exit_states

    @property
    def capacity(self) -> int:
        return self.layers[0].shape[3]

    def reserve(self, positions: int) -> None:
        """Makes room for so many positions a row. Raises ValueError where the device lacks the memory."""
        capacity = self.capacity
        if positions <= capacity:
            return
        capacity = max(positions, 2 * capacity)
        held = sum(layer.nbytes for layer in [*self.layers, self.exit_states])
        check_memory(held * capacity // self.capacity, self.exit_states.device, f"{capacity} positions a row")
        self.layers = [_wider(layer, 3, capacity) for layer in self.layers]
        if self._exit_states_of is None:
            self._exit_states = _wider(self._exit_states, 1, capacity)

    def enter(
        self, layer: int, slots: np.ndarray, positions: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray] | None:
        """Marks the positions of items [n], and all before them, as filled at a layer (from 0).

        Returns the slots and positions that lacked keys and values and are not of these items, which the
        caller fills from `exit_states`; None where there are none. Raises ValueError for an item that
        is there already: `truncate` first.
        """
        filled = self.filled[layer]
        if (positions < filled[slots]).any():
            raise ValueError("an item's keys and values are there already at this layer: truncate first")
        if len(slots) == 1:
            slot, position = slots[0], positions[0]
            first, filled[slot] = filled[slot], position + 1
            if first == position:
                return None
            return np.full(position - first, slot), np.arange(first, position)
        ends = filled.copy()
        np.maximum.at(ends, slots, positions + 1)
        firsts, counts = filled.copy(), ends - filled
        filled[:] = ends
        if counts.sum() == len(slots):
            return None
        starts = np.cumsum(counts) - counts
        every_slot = np.repeat(np.arange(len(filled)), counts)
        every_position = np.arange(len(every_slot)) + np.repeat(firsts - starts, counts)
        waits = np.ones(len(every_slot), dtype=bool)
        waits[starts[slots] + positions - firsts[slots]] = False
        return every_slot[waits], every_position[waits]

    def truncate(self, slots: np.ndarray, length: np.ndarray | int, above: int = 0) -> None:
        """Forgets the keys and values of positions from `length` on, at layers above `above` (0 for all)."""
        self.filled[above:, slots] = np.minimum(self.filled[above:, slots], length)

    def states_of(self, slots: np.ndarray, positions: np.ndarray) -> Tensor:
        """The states [n, d_model] that items were left with."""
        device = self.exit_states.device
        return self.exit_states[on_device(slots, device), on_device(positions, device)]

    def leave(self, slots: np.ndarray, positions: np.ndarray, states: Tensor) -> None:
        """Keeps the states [n, d_model] that items have left with, or wait with."""
        if len(slots) == 1:
            self.exit_states[int(slots[0]), int(positions[0])] = states[0]
            return
        device = states.device
        self.exit_states[on_device(slots, device), on_device(positions, device)] = states


class SourceCache:
    """Keys and values of the sources, computed when a row that reads them first reaches a layer.

    layers: a tensor [2, slots, heads, capacity, head_dim] each. filled: [layers, slots] bool. lengths:
    [slots] int64. states: [slots, capacity, d_model] float32, the encoder's output. of_slot: [slots] int64,
    the entry of a row's source; rows that read one source share it.
    """

    def __init__(self, sizes: CacheSizes, dtype: torch.dtype, device):
        layers, slots, heads, head_dim, d_model = sizes
        self.layers = [
            torch.zeros(2, slots, heads, 0, head_dim, dtype=dtype, device=device) for _ in range(layers)
        ]
        self.states = torch.zeros(slots, 0, d_model, device=device)
        self.filled = np.zeros((layers, slots), dtype=bool)
        self.lengths = np.zeros(slots, dtype=np.int64)
        self.of_slot = np.full(slots, -1, dtype=np.int64)
        self._keys: dict[int, int] = {}  # of a source → its entry

    @property
    def capacity(self) -> int:
        return self.states.shape[1]

    def add(self, slot: int, key: int, states: Tensor) -> None:
        """Gives a row its source, [length, d_model]; rows that give the same key share it."""
        if key not in self._keys:
            entry = int(np.setdiff1d(np.arange(len(self.lengths)), list(self._keys.values()))[0])
            self._reserve(len(states))
            self.states[entry, : len(states)] = states
            self.lengths[entry] = len(states)
            self.filled[:, entry] = False
            self._keys[key] = entry
        self.of_slot[slot] = self._keys[key]

    def drop(self, slot: int) -> None:
        """Takes the source from a row; forgets the source where no other row reads it."""
        entry, self.of_slot[slot] = self.of_slot[slot], -1
        if not (self.of_slot == entry).any():
            self._keys = {key: held for key, held in self._keys.items() if held != entry}

    def _reserve(self, length: int) -> None:
        capacity = self.states.shape[1]
        if length <= capacity:
            return
        # The first batch comes in one length; later growth is by steps, which are copies.
        capacity = length if capacity == 0 else max(length, capacity + capacity // 2)
        spare = [_wider(layer, 3, capacity) for layer in self.layers]
        self.layers, self.states = spare, _wider(self.states, 1, capacity)


def _wider(tensor: Tensor, dim: int, size: int) -> Tensor:
    """A copy with more room along a dimension, zeros at its end."""
    shape = list(tensor.shape)
    shape[dim] = size
    wider = tensor.new_zeros(shape)
    wider.narrow(dim, 0, tensor.shape[dim]).copy_(tensor)
    return wider


def on_device(indices: np.ndarray, device: torch.device) -> Tensor:
    """Host indices on the device, without waiting for it."""
    return torch.from_numpy(indices).to(device, non_blocking=True)


def take(tensor: Tensor, dim: int, indices: np.ndarray) -> Tensor:
    """Rows of a tensor along a dimension: a view where they lie in a row, else a copy."""
    first, count = int(indices[0]), len(indices)
    if count == 1 or (int(indices[-1]) - first == count - 1 and (np.diff(indices) == 1).all()):
        return tensor.narrow(dim, first, count)
    return tensor.index_select(dim, on_device(indices, tensor.device))


def check_memory(needed: int, device: torch.device, what: str) -> None:
    """Raises ValueError where the device has less than `needed` bytes free."""
    free = free_memory(device)
    if needed > free:
        raise ValueError(
            f"keys and values of {what} take {needed / 2**30:.1f} GiB, {free / 2**30:.1f} GiB are free: "
            "decode fewer rows at a time"
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
