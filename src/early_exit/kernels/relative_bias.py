"""T5's relative position bias (Raffel et al. 2020, section 2.1), by distance."""

import math

import torch
from torch import Tensor


def bias_by_distance(table: Tensor, max_distance: int, causal: bool, longest: int) -> Tensor:
    """The bias of every head at every distance.

    table: [buckets, heads]. Causal: [heads, longest], of keys 0, 1, … `longest` − 1 positions before the
    query.
    Else [heads, 2 · longest − 1], of keys from `longest` − 1 before to as many after it.
    """
    buckets = len(table)
    if causal:
        distances = torch.arange(longest)
        return table[_bucket(distances, buckets, max_distance).to(table.device)].T.contiguous()
    after = torch.arange(1 - longest, longest)  # of the key relative to the query
    half = buckets // 2
    numbers = half * (after > 0) + _bucket(after.abs(), half, max_distance)
    return table[numbers.to(table.device)].T.contiguous()


def _bucket(distances: Tensor, buckets: int, max_distance: int) -> Tensor:
    """Half of the buckets hold one distance each, the others ever wider ranges up to `max_distance`."""
    exact = buckets // 2
    ratio = (distances.clamp(min=1).float() / exact).log() / math.log(max_distance / exact)
    wide = exact + (ratio * (buckets - exact)).long()
    return torch.where(distances < exact, distances, wide.clamp(max=buckets - 1))
