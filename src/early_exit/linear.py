"""Products with a weight matrix, in the kernel that is fastest for the few rows that decoding has.

`pack` chooses it. float32 on a CPU goes to oneDNN with the matrix reordered beforehand: for 8 rows three
times faster than the BLAS call behind `inputs @ matrix`, and never slower. int8 goes to torch's quantized
kernels, whose names are kept in this file alone.
"""

import math
import warnings
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class Precision:
    """What products are computed in. weight_bytes: a weight's size in memory, which decoding reads."""

    weight_bytes: int


PRECISIONS: dict[str, Precision] = {
    "float32": Precision(weight_bytes=4),
    "bfloat16": Precision(weight_bytes=2),
    "int8": Precision(weight_bytes=1),
}


def pack(weight: Tensor, precision: str, relu: bool = False) -> "Linear":
    """The product with `weight` [out, in], in a precision of `PRECISIONS`, followed by max(0, ·) if `relu`.

    The result keeps its own copy of the weight. int8 needs a quantized engine (`has_int8`).
    """
    weight = weight.detach()
    if precision == "int8":
        return _Int8Linear(weight.float(), relu)
    if precision == "bfloat16":
        return Linear(weight.to(torch.bfloat16), relu)
    if weight.device.type == "cpu" and torch.backends.mkldnn.is_available():
        return _OneDnnLinear(weight.float(), relu)
    return Linear(weight.float(), relu)


def usable_precision(precision: str, device: torch.device) -> str:
    """`precision`, or float32 with a warning where the device has no kernel for it.

    Raises ValueError for a name that is not in `PRECISIONS`.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"unknown engine precision {precision!r}; known: {', '.join(PRECISIONS)}")
    if precision == "int8" and not has_int8(device):
        warnings.warn(f"no int8 kernels on {device}: the engine computes in float32", stacklevel=2)
        return "float32"
    return precision


def has_int8(device: torch.device) -> bool:
    """Whether int8 products run on the device: CPUs for which torch was built with a quantized engine."""
    return torch.device(device).type == "cpu" and _quantized_engine() is not None


@cache
def _quantized_engine() -> str | None:
    supported = torch.backends.quantized.supported_engines
    return next((name for name in ("fbgemm", "qnnpack") if name in supported), None)


@cache
def _int8_levels(engine: str) -> int:
    """The largest magnitude of a quantized input. Without VNNI fbgemm adds pairs of products in 16 bits,
    which hold 7-bit inputs only."""
    vnni = getattr(torch.cpu, "_is_vnni_supported", lambda: False)()
    return 127 if vnni or engine == "qnnpack" else 63


class Linear:
    """The product by torch's own kernel, in the weight's type. Base of the others."""

    def __init__(self, weight: Tensor, relu: bool = False):
        """weight: [out, in]."""
        self._weight, self._relu = weight.contiguous(), relu
        self.width = weight.shape[0]

    def __call__(self, inputs: Tensor) -> Tensor:
        """[rows, in] → [rows, out]."""
        product = functional.linear(inputs.to(self._weight.dtype), self._weight)
        return product.relu_() if self._relu else product

    def add(self, inputs: Tensor, residual: Tensor) -> Tensor:
        """residual [rows, out] + the product, in the residual's type, as a new tensor."""
        return residual + self(inputs)


class _OneDnnLinear(Linear):
    """float32 on a CPU, the matrix in oneDNN's blocked layout; adds and max(0, ·) cost no pass of their own.

    These are the operations that torch's own compiler lowers a frozen linear layer to.
    """

    def __init__(self, weight: Tensor, relu: bool):
        self._matrix = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous())
        self._after, self.width = "relu" if relu else "none", weight.shape[0]

    def __call__(self, inputs: Tensor) -> Tensor:
        return torch.ops.mkldnn._linear_pointwise(inputs, self._matrix, None, self._after, [], "")

    def add(self, inputs: Tensor, residual: Tensor) -> Tensor:
        return torch.ops.mkldnn._linear_pointwise.binary(inputs, residual, self._matrix, None, "add")


class _Int8Linear(Linear):
    """Weights in int8 with a scale for every output, inputs in int8 with a scale for every row.

    A scale for every row, where torch's dynamic quantization takes one for all, keeps a row's result
    free of what else is in the batch.
    """

    def __init__(self, weight: Tensor, relu: bool):
        self._engine, self.width = _quantized_engine(), weight.shape[0]
        self._levels, self._relu = _int8_levels(self._engine), relu
        before = torch.backends.quantized.engine
        torch.backends.quantized.engine = self._engine
        try:
            self._matrix = torch.ops.quantized.linear_prepack(_quantized(weight), None)
        finally:
            torch.backends.quantized.engine = before

    def __call__(self, inputs: Tensor) -> Tensor:
        if len(inputs) == 1 and self._engine == "fbgemm":  # the scale as a number saves two operations
            low, high = torch.aminmax(inputs)
            largest = max(-low.item(), high.item())
            if math.isfinite(largest):
                return self._product(inputs, max(largest, _SMALLEST))
        if len(inputs) <= _ROWS_AT_ONCE:
            return self._scaled_product(inputs)
        outputs = inputs.new_empty(len(inputs), self.width)
        for part, result in zip(inputs.split(_ROWS_AT_ONCE), outputs.split(_ROWS_AT_ONCE), strict=True):
            result.copy_(self._scaled_product(part))
        return outputs

    def _scaled_product(self, inputs: Tensor) -> Tensor:
        largest = inputs.abs().amax(-1, keepdim=True).clamp_(min=_SMALLEST)  # [rows, 1]
        return self._product(inputs / largest, 1.0).mul_(largest)

    def add(self, inputs: Tensor, residual: Tensor) -> Tensor:
        return self(inputs).add_(residual)

    def _product(self, inputs: Tensor, largest: float) -> Tensor:
        """The product for inputs of magnitude <= `largest`."""
        if self._engine == "fbgemm":
            operation = _FBGEMM_RELU if self._relu else _FBGEMM
            return operation(inputs, largest / self._levels, self._levels + 1, self._matrix)
        # Here a product takes its scale from its inputs: one more row, thrown away, makes it ours.
        extremes = inputs.new_zeros(1, inputs.shape[1])
        extremes[0, 0], extremes[0, -1] = largest, -largest
        operation = torch.ops.quantized.linear_dynamic
        product = operation(torch.cat([inputs, extremes]), self._matrix)[:-1]
        return product.relu_() if self._relu else product


class Int8Product:
    """Products of integers with a weight rounded to int8, without any rounding of the inputs.

    They are exact but for float32's rounding of the result; see `has_exact_int8`.
    weight: [out, in]; what is multiplied with is `rounded_to_int8(weight)`. levels: the largest magnitude
    that an input may have.
    """

    def __init__(self, weight: Tensor):
        self._linear = _Int8Linear(weight.detach().float(), relu=False)
        self.levels = self._linear._levels

    def __call__(self, inputs: Tensor) -> Tensor:
        """Whole numbers in [−levels, levels] as float32 [rows, in] → [rows, out]."""
        return self._linear._product(inputs, self.levels)


def rounded_to_int8(weight: Tensor) -> Tensor:
    """What int8 products multiply with instead of a weight [out, in], float32."""
    return _quantized(weight.detach().float()).dequantize()


def has_exact_int8(device: torch.device) -> bool:
    """Whether `Int8Product` runs on the device. qnnpack, on Arm, chooses its inputs' scale itself."""
    return has_int8(device) and _quantized_engine() == "fbgemm"


def _quantized(weight: Tensor) -> Tensor:
    """A weight [out, in] in int8 with a scale for every output."""
    scales = weight.abs().amax(dim=1).clamp(min=_SMALLEST) / 127
    zeros = torch.zeros(len(scales), dtype=torch.long)
    with warnings.catch_warnings():  # these names move to another package one day
        warnings.simplefilter("ignore")
        return torch.quantize_per_channel(weight, scales, zeros, 0, torch.qint8)


_ROWS_AT_ONCE = 512  # what the steps of one product hand on stays in the processor's cache
_SMALLEST = 1e-30  # instead of the scale 0 of a row of zeros
_FBGEMM = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32
_FBGEMM_RELU = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_relu_output_fp32
