"""The compiled library as Python functions: see interface.cpp, decoder.h and layers.h for what they take."""

import ctypes
import os
import warnings
from ctypes import POINTER, c_float, c_int, c_int32, c_int64, c_void_p
from functools import cache

import torch
from torch import Tensor

from early_exit.kernels.interface import StackSpec
from early_exit.kernels.native.build import BuildError, built_library

KINDS = {"float32": 0, "bfloat16": 1, "int8": 2, "int4": 3, "w8a8": 4}
ACTIVATIONS = {"relu": 0, "gelu": 1, "gelu_new": 2, "gelu_pytorch_tanh": 2, "silu": 3, "swish": 3}
_NO_MEMORY, THERE_ALREADY = 1, 2


class Sizes(ctypes.Structure):
    _fields_ = (
        *[(name, c_int32) for name in ("d_model", "heads", "head_dim", "d_ff", "activation", "gated")],
        ("norm_epsilon", c_float),
    )

    @classmethod
    def of(cls, spec: StackSpec) -> "Sizes":
        activation = ACTIVATIONS[spec.activation]
        return cls(
            spec.d_model, spec.heads, spec.head_dim, spec.d_ff, activation, spec.gated, spec.norm_epsilon
        )


class CacheTensors(ctypes.Structure):
    """`KVCache` of caches.h."""

    _fields_ = (
        *[(name, c_void_p) for name in ("layers", "filled", "exit_states", "biases")],
        *[(name, c_int64) for name in ("slots", "capacity")],
        ("half", c_int32),
    )


class SourceTensors(ctypes.Structure):
    """`SourceCache` of caches.h."""

    _fields_ = (
        *[(name, c_void_p) for name in ("layers", "filled", "lengths", "of_slot", "states")],
        *[(name, c_int64) for name in ("slots", "capacity")],
    )


class ItemArrays(ctypes.Structure):
    """`Items` of caches.h."""

    _fields_ = (("count", c_int), ("slots", c_void_p), ("positions", c_void_p))


_FUNCTIONS = {
    "ee_decoder": (c_void_p, [POINTER(Sizes), c_int]),
    "ee_free_decoder": (None, [c_void_p]),
    "ee_set_decoder_matrix": (c_int, [c_void_p, c_int, c_int, c_int, c_void_p, c_int, c_int]),
    "ee_set_head": (c_int, [c_void_p, c_int, c_void_p, c_int, c_int]),
    "ee_run": (
        c_int,
        [c_void_p, c_int, POINTER(ItemArrays), c_void_p, c_int, c_int,
         POINTER(CacheTensors), POINTER(SourceTensors)],
    ),
    "ee_head": (c_void_p, [c_void_p]),
    "ee_logits": (c_int, [c_void_p, c_float, c_int, c_void_p, c_int, c_void_p]),
    "ee_top": (c_int, [c_void_p, c_float, c_int, c_void_p, c_int, c_void_p, c_void_p]),
    "ee_screened": (c_int, [c_void_p, c_int, c_float, c_void_p, c_int, *[c_void_p] * 6]),
    "ee_log_odds": (c_int, [c_void_p, c_int, c_int, c_void_p, c_int, c_void_p]),
    "ee_attending_log_odds": (
        c_int, [c_void_p, c_void_p, c_int, c_int, c_int, c_void_p, POINTER(ItemArrays), c_void_p]
    ),
    "ee_decode": (
        c_int, [c_void_p, c_int, c_void_p, POINTER(CacheTensors), POINTER(SourceTensors)]
    ),
    "ee_matrix": (c_void_p, [c_int, c_void_p, c_int, c_int]),
    "ee_free_matrix": (None, [c_void_p]),
    "ee_multiply": (c_int, [c_void_p, c_int, c_void_p, c_int, c_void_p]),
    "ee_encoder": (c_void_p, [POINTER(Sizes), c_int, c_void_p]),
    "ee_free_encoder": (None, [c_void_p]),
    "ee_set_encoder_matrix": (c_int, [c_void_p, c_int, c_int, c_int, c_void_p, c_int, c_int]),
    "ee_encode": (c_int, [c_void_p, c_int, c_void_p, c_void_p, c_int, c_void_p, c_int]),
}  # fmt: skip


@cache
def native_library() -> ctypes.CDLL | None:
    """The library; None, with a warning that says why, where it cannot be compiled, and where
    EARLY_EXIT_KERNELS=torch asks for torch's kernels. Raises ValueError for other values of that."""
    asked = os.environ.get("EARLY_EXIT_KERNELS", "native")
    if asked not in ("native", "torch"):
        raise ValueError(f"EARLY_EXIT_KERNELS={asked}; allowed: native, torch")
    if asked == "torch":
        return None
    try:
        library = ctypes.CDLL(str(built_library()))
    except (BuildError, OSError) as error:
        warnings.warn(f"decoding runs on torch's kernels, in float32, and slowly: {error}", stacklevel=2)
        return None
    for name, (result, arguments) in _FUNCTIONS.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


def check(status: int) -> None:
    """Raises for a status of the library that is not success."""
    if status == _NO_MEMORY:
        raise MemoryError("the kernels have no memory left")
    if status == THERE_ALREADY:
        raise ValueError("an item's keys and values are there already at this layer: truncate first")


def floats(tensor: Tensor) -> Tensor:
    """As the library reads tensors: float32, contiguous, on the CPU."""
    return tensor.detach().to("cpu", torch.float32).contiguous()
