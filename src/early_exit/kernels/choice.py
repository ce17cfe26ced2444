"""Which kernels a decoder runs on."""

from early_exit.kernels.interface import DecoderTensors, Kernels
from early_exit.kernels.native.kernels import NativeKernels
from early_exit.kernels.torch_kernels import TorchKernels
from early_exit.linear import has_native, usable_precision


def kernels_for(tensors: DecoderTensors, precision: str) -> Kernels:
    """The compiled kernels on a CPU, where they can be compiled; torch's elsewhere, in float32 instead of a
    precision that they lack (`early_exit.linear.usable_precision`)."""
    device = tensors.head.device
    if has_native(device):
        return NativeKernels(tensors, usable_precision(precision, device))
    return TorchKernels(tensors, usable_precision(precision, device))
