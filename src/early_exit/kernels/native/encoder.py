"""An encoder in C++: sources of any lengths side by side, without padding."""

import ctypes
from weakref import finalize

import numpy as np
import torch
from torch import Tensor

from early_exit.kernels.interface import StackTensors
from early_exit.kernels.native.kernels import Biases, pack_layers
from early_exit.kernels.native.library import Sizes, check, floats, native_library


class NativeEncoder:
    """T5's encoder in one precision of `early_exit.linear.PRECISIONS`; a source's result does not depend on
    the others, bit for bit."""

    def __init__(self, tensors: StackTensors, precision: str):
        self.tensors = tensors
        self._library = native_library()
        norm, sizes = floats(tensors.final_norm), Sizes.of(tensors.spec)
        layers = len(tensors.layers)
        self._encoder = self._library.ee_encoder(ctypes.byref(sizes), layers, norm.data_ptr())
        if self._encoder is None:
            raise MemoryError("the kernels have no memory left")
        finalize(self, self._library.ee_free_encoder, self._encoder)
        pack_layers(tensors, precision, self._library.ee_set_encoder_matrix, self._encoder)
        self._biases = Biases(tensors)

    def __call__(self, states: Tensor, lengths: np.ndarray) -> Tensor:
        """states: [tokens, d_model], embedded, of one source after the other; lengths: of each, at least 1.
        Returns [tokens, d_model] float32."""
        if lengths.min(initial=1) < 1 or lengths.sum() != len(states) or not len(lengths):
            raise ValueError(f"sources of lengths {lengths.tolist()}, and {len(states)} states")
        states = states.to("cpu", torch.float32, copy=True, memory_format=torch.contiguous_format)
        starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        # In steps, so that few of them are made.
        longest = int(-(-int(lengths.max()) // 64) * 64)
        biases, threads = self._biases(longest), torch.get_num_threads()
        status = self._library.ee_encode(
            self._encoder, threads, states.data_ptr(), starts.ctypes.data, len(lengths), biases.address, longest
        )
        check(status)
        return states
