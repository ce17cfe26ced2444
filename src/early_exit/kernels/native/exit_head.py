"""Exit heads by the compiled library."""

import ctypes
from collections.abc import Sequence
from ctypes import c_float, c_int32, c_void_p
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from early_exit.decoding.kv_cache import KVCache
from early_exit.kernels.interface import Items
from early_exit.kernels.native.caches import cache_tensors, item_arrays
from early_exit.kernels.native.library import check, floats, native_library
from early_exit.kernels.native.matrix import NativeMatrix


class ExitHeadTensors(ctypes.Structure):
    """`ExitHead` of exit_head.h."""

    _fields_ = (
        *[(name, c_void_p) for name in ("projections", "keys_values", "hidden", "output")],
        ("offset", c_float),
        ("norm_floor", c_float),
    )


class HeadAttention(ctypes.Structure):
    """`HeadAttention` of exit_head.h."""

    _fields_ = (("heads", c_int32), ("head_dim", c_int32), ("cache", c_void_p))


class HeadParts(NamedTuple):
    """One head: what `early_exit.heads.LayerHead` has, packed."""

    projections: NativeMatrix | None
    keys_values: NativeMatrix | None
    hidden: NativeMatrix | None
    output: Tensor
    offset: float


class NativeExitHeads:
    """The heads of layers 1 to L − 1."""

    def __init__(self, layers: Sequence[HeadParts], heads: int, head_dim: int, norm_floor: float):
        """heads, head_dim: of their attention, if they have any."""
        self._kept = [each._replace(output=floats(each.output)) for each in layers]
        self._heads, self._head_dim = heads, head_dim
        self._library = native_library()
        self.array = (ExitHeadTensors * len(layers))(*[
            ExitHeadTensors(
                *(matrix and matrix.address for matrix in (each.projections, each.keys_values, each.hidden)),
                each.output.data_ptr(), each.offset, norm_floor,
            )
            for each in self._kept
        ])  # fmt: skip

    def attention(self, cache: KVCache) -> HeadAttention:
        """For heads with attention. cache: what they keep of the rows, which must outlive the result."""
        tensors = cache_tensors(cache, np.zeros(len(cache.layers), np.uint64))
        attention = HeadAttention(self._heads, self._head_dim, ctypes.addressof(tensors))
        attention.kept = tensors
        return attention

    def log_odds(self, layer: int, items: Items, states: Tensor, cache: KVCache | None) -> Tensor:
        """Log-odds [n] float32 that the exit after `layer`, from 1, agrees with full depth; states:
        [n, d_model]. cache: of heads with attention."""
        states = floats(states)
        results = states.new_empty(len(states))
        head = ctypes.byref(self.array[layer - 1])
        threads, (count, d_model) = torch.get_num_threads(), states.shape
        if cache is None:
            status = self._library.ee_log_odds(
                head, threads, d_model, states.data_ptr(), count, results.data_ptr()
            )
        else:
            attention, arrays = self.attention(cache), item_arrays(items)
            status = self._library.ee_attending_log_odds(
                head,
                ctypes.byref(attention),
                threads,
                layer,
                d_model,
                states.data_ptr(),
                arrays,
                results.data_ptr(),
            )
        check(status)
        return results
