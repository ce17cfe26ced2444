"""An LM head, or some of its rows, with the norm before it."""

import numpy as np
import torch
from torch import Tensor

from early_exit.kernels.interface import Top
from early_exit.kernels.native.library import check, floats, native_library


class NativeHead:
    """Reads the outputs of layers, states [n, d_model], by a packed matrix of the library."""

    def __init__(self, address: int, rows: int, norm_epsilon: float):
        """address, rows: of the matrix, which whoever gives it keeps, with the norm's weights folded in."""
        self.address, self._rows, self._epsilon = address, rows, norm_epsilon
        self._library = native_library()

    def logits(self, states: Tensor) -> Tensor:
        """[n, rows] float32."""
        states = floats(states)
        logits = states.new_empty(len(states), self._rows)
        status = self._library.ee_logits(
            self.address,
            self._epsilon,
            torch.get_num_threads(),
            states.data_ptr(),
            len(states),
            logits.data_ptr(),
        )
        check(status)
        return logits

    def top(self, states: Tensor) -> Top:
        """The likeliest of the rows, by their numbers from 0, and its softmax response among them."""
        states = floats(states)
        rows, responses = np.empty(len(states), np.int64), np.empty(len(states), np.float32)
        status = self._library.ee_top(
            self.address,
            self._epsilon,
            torch.get_num_threads(),
            states.data_ptr(),
            len(states),
            rows.ctypes.data,
            responses.ctypes.data,
        )
        check(status)
        return Top(rows, responses)
