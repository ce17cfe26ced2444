"""One packed weight matrix."""

from weakref import finalize

import torch
from torch import Tensor

from early_exit.kernels.native.library import KINDS, check, floats, native_library


class NativeMatrix:
    """Products with a weight [out, in], packed in a precision of `KINDS`. On a CPU."""

    def __init__(self, weight: Tensor, precision: str):
        weight = floats(weight)
        self.width, self._inputs = weight.shape
        self._library = native_library()
        self._matrix = self._library.ee_matrix(KINDS[precision], weight.data_ptr(), self.width, self._inputs)
        if self._matrix is None:
            raise MemoryError("the kernels have no memory left")
        finalize(self, self._library.ee_free_matrix, self._matrix)

    @property
    def address(self) -> int:
        """Of the library's matrix, which lives as long as this one."""
        return self._matrix

    def __call__(self, inputs: Tensor) -> Tensor:
        """[rows, in] → [rows, out], float32."""
        if inputs.ndim != 2 or inputs.shape[1] != self._inputs:
            raise ValueError(f"inputs of shape {tuple(inputs.shape)} for a weight of {self._inputs} inputs")
        inputs = floats(inputs)
        results = inputs.new_empty(len(inputs), self.width)
        threads = torch.get_num_threads()
        status = self._library.ee_multiply(
            self._matrix, threads, inputs.data_ptr(), len(inputs), results.data_ptr()
        )
        check(status)
        return results


def rounded_to_int8(weight: Tensor) -> Tensor:
    """What an int8 matrix multiplies with instead of a weight [out, in]; float32."""
    weight = floats(weight)
    scales = weight.abs().amax(dim=1, keepdim=True).clamp(min=1e-30) / 127
    return (weight / scales).round() * scales
