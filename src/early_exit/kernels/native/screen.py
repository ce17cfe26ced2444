"""The LM head read through a coarse copy: tokens and exits of the whole float32 head, for a fraction of it.

How, and why the answers are the same, is said in screen.h, whose functions compute them.
"""

import ctypes
import math
from ctypes import c_float, c_void_p
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from early_exit.kernels.native.head import NativeHead
from early_exit.kernels.native.library import check, floats, native_library
from early_exit.kernels.native.matrix import NativeMatrix, rounded_to_int8

SCREEN_COUNTS = ("asked", "candidates", "fell_back")  # in the order of `Loop.screened`
_FLOAT32 = 1e-6  # for what norms of errors are themselves rounded by


class ScreenTensors(ctypes.Structure):
    """`Screen` of screen.h."""

    _fields_ = (
        *[(name, c_void_p) for name in ("exact", "coarse", "row_errors")],
        *[(name, c_float) for name in ("largest_row_error", "largest_row", "error_norm")],
    )


@dataclass(frozen=True)
class Screened:
    """What is known of rows, in their order.

    tokens: [rows] int64, the likeliest. low, high: [rows] float32, softmax response is between them; both NaN
    where only tokens were asked for. candidates: [rows] int64, how many logits were computed exactly.
    fell_back: [rows] bool, where the whole head was computed.
    """

    tokens: np.ndarray
    low: np.ndarray
    high: np.ndarray
    candidates: np.ndarray
    fell_back: np.ndarray


class Screen:
    """An LM head [vocabulary, d_model] in float32, with its int8 copy.

    head: the whole of it. tensors: both as the library takes them.
    """

    def __init__(
        self,
        weight: Tensor,
        norm_epsilon: float | None = None,
        head: NativeHead | None = None,
        tokens_only: bool = False,
    ):
        """norm_epsilon: of the norm before the head; None where inputs come normed. head: the same weight in
        float32 where the library has it already, which whoever gives it keeps. tokens_only: whether only
        tokens will be asked for, which needs no norm of a matrix of this size."""
        weight = floats(weight)
        self._epsilon = -1.0 if norm_epsilon is None else norm_epsilon
        self._coarse = NativeMatrix(weight, "int8")
        self._packed = NativeMatrix(weight, "float32") if head is None else None
        self.head = head or NativeHead(self._packed.address, len(weight), self._epsilon)
        rounded = rounded_to_int8(weight)
        error = weight - rounded
        row_errors = (1 + _FLOAT32) * torch.linalg.vector_norm(error, dim=1)  # [vocabulary]
        self._row_errors = np.ascontiguousarray(row_errors.numpy())
        self.tensors = ScreenTensors(
            exact=self.head.address,
            coarse=self._coarse.address,
            row_errors=self._row_errors.ctypes.data,
            largest_row_error=_no_less(float(row_errors.max())),
            largest_row=_no_less(torch.linalg.vector_norm(rounded, dim=1).amax().item()),
            error_norm=math.inf,
        )
        self._library = native_library()
        if not tokens_only:
            self.bound_responses(weight)

    def bound_responses(self, weight: Tensor) -> None:
        """Makes a screen for tokens one for responses too. weight: the same."""
        weight = floats(weight)
        self.tensors.error_norm = _no_less(_spectral_norm(weight - rounded_to_int8(weight)))

    def tokens(self, inputs: Tensor) -> Screened:
        """The likeliest token of each input [rows, d_model]."""
        return self._read(inputs, limits=None)

    def response(self, inputs: Tensor, limits: np.ndarray) -> Screened:
        """The likeliest tokens, and softmax response as closely as it takes to compare it with a limit.

        inputs: [rows, d_model]; limits: [rows]. In every row either low > limit or high <= limit.
        """
        return self._read(inputs, np.ascontiguousarray(limits, np.float32))

    def _read(self, inputs: Tensor, limits: np.ndarray | None) -> Screened:
        rows, inputs = len(inputs), floats(inputs)
        found = Screened(
            np.empty(rows, np.int64),
            np.empty(rows, np.float32),
            np.empty(rows, np.float32),
            np.empty(rows, np.int64),
            np.empty(rows, bool),
        )
        results = (found.tokens, found.low, found.high, found.candidates, found.fell_back)
        status = self._library.ee_screened(
            ctypes.addressof(self.tensors),
            torch.get_num_threads(),
            self._epsilon,
            inputs.data_ptr(),
            rows,
            None if limits is None else limits.ctypes.data,
            *[result.ctypes.data for result in results],
        )
        check(status)
        return found


def _no_less(value: float) -> float:
    """A float32 that is at least a number."""
    return float(np.nextafter(np.float32(value), np.float32(math.inf)))


def _spectral_norm(matrix: Tensor) -> float:
    """The largest singular value of [rows, columns], not less: from the eigenvalues of a Gram matrix."""
    gram = torch.zeros(matrix.shape[1], matrix.shape[1], dtype=torch.float64)
    for chunk in matrix.split(4096):
        gram.addmm_(chunk.double().T, chunk.double())
    return (1 + _FLOAT32) * math.sqrt(max(0.0, torch.linalg.eigvalsh(gram)[-1].item()))
