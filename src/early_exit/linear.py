"""Precisions, and products with one weight matrix in them."""

import warnings
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import linear

from early_exit.kernels.native.library import native_library
from early_exit.kernels.native.matrix import NativeMatrix


@dataclass(frozen=True)
class Precision:
    """What products are computed in. weight_bytes: a weight's size in memory, which decoding reads;
    head_bytes: one of the LM head's. native: whether the compiled kernels alone have it."""

    weight_bytes: float
    head_bytes: int
    native: bool = False


PRECISIONS: dict[str, Precision] = {
    "float32": Precision(weight_bytes=4, head_bytes=4),
    "bfloat16": Precision(weight_bytes=2, head_bytes=2),
    "int8": Precision(weight_bytes=1, head_bytes=1, native=True),
    "w8a8": Precision(weight_bytes=1, head_bytes=1, native=True),  # inputs have 8 bits too, but of the head
    "int4": Precision(weight_bytes=17 / 32, head_bytes=1, native=True),  # 32 weights share a scale of a byte
}


def usable_precision(precision: str, device: torch.device) -> str:
    """`precision`, or float32 with a warning where the device has no kernel for it.

    Raises ValueError for a name that is not in `PRECISIONS`.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"unknown engine precision {precision!r}; known: {', '.join(PRECISIONS)}")
    if PRECISIONS[precision].native and not has_native(device):
        warnings.warn(f"no {precision} kernels on {device}: the engine computes in float32", stacklevel=2)
        return "float32"
    return precision


def has_native(device: torch.device | str) -> bool:
    """Whether the compiled kernels run on a device; with a warning where they could but cannot be
    compiled."""
    return torch.device(device).type == "cpu" and native_library() is not None


def pack(weight: Tensor, precision: str, relu: bool = False) -> "Linear":
    """The product with `weight` [out, in], in a precision of `PRECISIONS`, followed by max(0, ·) if
    `relu`."""
    if has_native(weight.device):
        return NativeLinear(weight, precision, relu)
    return Linear(weight.detach().to(torch.bfloat16 if precision == "bfloat16" else torch.float32), relu)


class Linear:
    """The product by torch's own kernel, in the weight's type."""

    def __init__(self, weight: Tensor, relu: bool = False):
        """weight: [out, in]."""
        self._weight, self._relu = weight.contiguous(), relu
        self.width = weight.shape[0]

    def __call__(self, inputs: Tensor) -> Tensor:
        """[rows, in] → [rows, out]."""
        product = linear(inputs.to(self._weight.dtype), self._weight)
        return product.relu_() if self._relu else product

    def add(self, inputs: Tensor, residual: Tensor) -> Tensor:
        """residual [rows, out] + the product, in the residual's type, as a new tensor."""
        return residual + self(inputs)


class NativeLinear(Linear):
    """The product by the compiled kernels."""

    def __init__(self, weight: Tensor, precision: str, relu: bool = False):
        self.matrix, self._relu = NativeMatrix(weight, precision), relu
        self.width = weight.shape[0]

    def __call__(self, inputs: Tensor) -> Tensor:
        product = self.matrix(inputs)
        return product.relu_() if self._relu else product
