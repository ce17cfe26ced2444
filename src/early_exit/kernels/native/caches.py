"""The rows' caches as the compiled library takes them: what caches.h declares."""

import numpy as np
import torch
from torch import Tensor

from early_exit.decoding.kv_cache import KVCache, SourceCache
from early_exit.kernels.interface import Items
from early_exit.kernels.native.library import CacheTensors, ItemArrays, SourceTensors


def cache_tensors(cache: KVCache, biases: np.ndarray) -> CacheTensors:
    """biases: the addresses [layers] uint64 of relative position biases, 0 where there are none. The cache
    and the biases themselves must outlive the result, which holds on to the rest."""
    layers = _addresses(cache.layers)
    tensors = CacheTensors(
        layers.ctypes.data,
        cache.filled.ctypes.data,
        cache.exit_states.data_ptr(),
        biases.ctypes.data,
        cache.filled.shape[1],
        cache.capacity,
        cache.layers[0].dtype == torch.bfloat16,
    )
    tensors.kept = layers, biases
    return tensors


def source_tensors(sources: SourceCache) -> SourceTensors:
    """The sources must outlive the result."""
    layers = _addresses(sources.layers)
    tensors = SourceTensors(
        layers.ctypes.data,
        sources.filled.ctypes.data,
        sources.lengths.ctypes.data,
        sources.of_slot.ctypes.data,
        sources.states.data_ptr(),
        len(sources.of_slot),
        sources.capacity,
    )
    tensors.kept = layers
    return tensors


def item_arrays(items: Items) -> ItemArrays:
    slots, positions = (np.ascontiguousarray(each, dtype=np.int64) for each in (items.slots, items.positions))
    arrays = ItemArrays(len(slots), slots.ctypes.data, positions.ctypes.data)
    arrays.kept = slots, positions
    return arrays


def _addresses(tensors: list[Tensor]) -> np.ndarray:
    return np.array([tensor.data_ptr() for tensor in tensors], np.uint64)
