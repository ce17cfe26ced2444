"""Losses beside the one that is optimised, averaged until the next line of the log."""

import torch
from torch import Tensor


class LossMeans:
    """Collects scalars on the device and gives their means."""

    def __init__(self):
        self._losses: dict[str, list[Tensor]] = {}

    def add(self, name: str, loss: Tensor) -> None:
        self._losses.setdefault(name, []).append(loss)

    def take(self) -> dict[str, float]:
        """The means since the last call, by name, over the steps at which there was a loss: NaN stands for
        none, since an exit need not learn at every step. Names without any are left out."""
        means = {name: torch.stack(losses).nanmean().item() for name, losses in self._losses.items()}
        self._losses.clear()
        return {name: round(mean, 4) for name, mean in means.items() if mean == mean}
