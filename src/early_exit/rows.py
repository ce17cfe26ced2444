"""Which rows of a batch a step runs, and where they lie in the memories.

On a CPU rows are taken in stretches that lie together, as views: gathering a row would read its keys and
values, write them, and read them again. On other devices, where a call costs more than a copy, all are
gathered in one.
"""

from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor


def on_device(indices: np.ndarray, device: torch.device) -> Tensor:
    """Host indices on the device, without waiting for it."""
    return torch.from_numpy(indices).to(device, non_blocking=True)


def select(tensor: Tensor, indices: np.ndarray) -> Tensor:
    """Rows of a tensor by host indices; the tensor itself where these are all its rows in order."""
    if len(indices) == tensor.shape[0]:
        return tensor
    return tensor[on_device(indices, tensor.device)]


class Stretch(NamedTuple):
    """Some of the rows at hand. members: their slice of [rows at hand]; places: where they lie in a memory,
    as a slice or as indices on the device; each: so many members in turn share a place."""

    members: slice
    places: slice | Tensor
    each: int


class Rows:
    """The rows that a layer runs.

    places: [n], where they lie in `TokenMemory`, in rising order. row_sources: the source of every row
    there, where it lies in `SourceMemory`.
    """

    def __init__(self, places: np.ndarray, row_sources: np.ndarray, device: torch.device):
        self.places = places
        self._row_sources = row_sources
        self._device = device

    def __len__(self) -> int:
        return len(self.places)

    def of(self, chosen: np.ndarray) -> "Rows":
        """Those of these rows that `chosen` [n] bool names."""
        return Rows(self.places[chosen], self._row_sources, self._device)

    @cached_property
    def token_stretches(self) -> list[Stretch]:
        """Where the rows' own tokens lie."""
        return stretches(self.places, self._device)

    @cached_property
    def source_stretches(self) -> list[Stretch]:
        """Where the rows' sources lie; neighbours that read one source share its place."""
        return stretches(self._row_sources[self.places], self._device)

    @cached_property
    def sources(self) -> np.ndarray:
        """The sources that these rows read, each once, in rising order."""
        return np.unique(self._row_sources[self.places])


def stretches(places: np.ndarray, device: torch.device) -> list[Stretch]:
    """Cuts `places` [n] into stretches of members that lie together, each place shared by equally many."""
    # Members in turn that share a place: [first member, place, how many].
    firsts = np.concatenate([[0], np.flatnonzero(np.diff(places)) + 1])
    counts = np.diff(np.append(firsts, len(places)))
    shared = places[firsts]
    apart = np.diff(shared) != 1
    breaks = np.diff(counts) != 0
    if device.type == "cpu":
        breaks |= apart
    starts = [0, *(np.flatnonzero(breaks) + 1).tolist()]
    firsts, counts = firsts.tolist(), counts.tolist()
    result = []
    for start, end in zip(starts, [*starts[1:], len(shared)], strict=True):
        each, first, number = counts[start], firsts[start], end - start
        if device.type == "cpu" or not apart[start : end - 1].any():
            place = int(shared[start])
            where = slice(place, place + number)
        else:
            where = on_device(shared[start:end], device)
        result.append(Stretch(slice(first, first + number * each), where, each))
    return result
