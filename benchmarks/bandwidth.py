"""How fast memory is read, and what a step of a decoder has to read: the floor under its time."""

import time
from functools import cache

import torch
from torch import Tensor

from early_exit.linear import PRECISIONS


@cache
def _numbers() -> Tensor:
    return torch.ones(2**26)  # 256 MiB, more than any cache


def measured_bandwidth() -> float:
    """Bytes a second of summing a large tensor with all of torch's threads, the best of three."""
    numbers, best = _numbers(), float("inf")
    for _ in range(3):
        begin = time.perf_counter()
        numbers.sum().item()
        best = min(best, time.perf_counter() - begin)
    return numbers.numel() * numbers.element_size() / best


def step_bytes(
    model, precision: str, rows: int, source: int, new_tokens: int, cache_bytes: int
) -> dict[str, float]:
    """Bytes that a step at full depth must read: `weights`, and `keys_and_values` of the rows' sources and,
    at the middle of their texts, of their own tokens.

    Keys and values of the source are computed once, not in a step; the LM head stays in int8 or better.
    cache_bytes: of a number in the caches.
    """
    blocks, size = model.decoder.block, PRECISIONS[precision].weight_bytes
    layers = sum(
        weight.numel() for name, weight in model.decoder.named_parameters() if "embed" not in name
    ) - sum(
        projection.weight.numel()
        for attention in (block.layer[1].EncDecAttention for block in blocks)
        for projection in (attention.k, attention.v)
    )
    weights = layers * size + model.lm_head.weight.numel() * max(1, size)
    width = model.config.num_heads * model.config.d_kv
    tokens = rows * (source + new_tokens / 2)
    return {
        "weights": float(weights),
        "keys_and_values": 2.0 * len(blocks) * tokens * width * cache_bytes,
    }
