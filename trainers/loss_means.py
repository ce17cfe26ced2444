"""Losses beside the one that is optimised, averaged until the next line of the log."""

import torch
from torch import Tensor


class LossMeans:
    """Collects scalars on the device and gives their means."""

    def __init__(self):
        self._sums: dict[str, Tensor] = {}  # [2] each: the sum, and of how many losses

    def add(self, name: str, loss: Tensor) -> None:
        """loss: a scalar; NaN where there was none, since an exit need not learn at every step."""
        loss = loss.detach().float()
        there = ~loss.isnan()
        both = torch.stack([torch.where(there, loss, 0.0), there.float()])
        self._sums[name] = self._sums[name] + both if name in self._sums else both

    def take(self) -> dict[str, float]:
        """The means since the last call, by name; names without any loss are left out."""
        sums = {name: both.tolist() for name, both in self._sums.items()}
        self._sums.clear()
        return {name: round(total / count, 4) for name, (total, count) in sums.items() if count}
