"""Exit heads without attention, by the compiled library."""

import ctypes
from collections.abc import Sequence
from ctypes import c_float, c_void_p

import torch
from torch import Tensor

from early_exit.kernels.native.library import check, floats, native_library
from early_exit.kernels.native.matrix import NativeMatrix


class ExitHeadTensors(ctypes.Structure):
    """`ExitHead` of exit_head.h."""

    _fields_ = (("hidden", c_void_p), ("output", c_void_p), ("offset", c_float), ("norm_floor", c_float))


class NativeExitHeads:
    """The heads of layers 1 to L − 1."""

    def __init__(self, heads: Sequence[tuple[NativeMatrix | None, Tensor, float]], norm_floor: float):
        """heads: of each layer the hidden product, or None; the last one's weight [features]; its offset."""
        self._kept = [(hidden, floats(output), offset) for hidden, output, offset in heads]
        self._library = native_library()
        self.array = (ExitHeadTensors * len(heads))(*[
            ExitHeadTensors(hidden and hidden.address, output.data_ptr(), offset, norm_floor)
            for hidden, output, offset in self._kept
        ])  # fmt: skip

    def log_odds(self, layer: int, states: Tensor) -> Tensor:
        """Log-odds [n] float32 that the exit after `layer`, from 1, agrees with full depth; states:
        [n, d_model]."""
        states = floats(states)
        results = states.new_empty(len(states))
        head = ctypes.byref(self.array[layer - 1])
        count, d_model = states.shape
        status = self._library.ee_log_odds(
            head, torch.get_num_threads(), d_model, states.data_ptr(), count, results.data_ptr()
        )
        check(status)
        return results
