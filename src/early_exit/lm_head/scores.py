"""What rows choose their next tokens from."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor


class LayerScores(Protocol):
    """What some rows that left at one layer choose from."""

    def tokens(self) -> np.ndarray:
        """The likeliest tokens [n] int64, the lowest number of equals."""
        ...

    def logits(self) -> Tensor:
        """[n, vocabulary] float32."""
        ...


class Scores:
    """Of rows that left at several layers, one layer after the other."""

    def __init__(self, layers: Sequence[LayerScores]):
        self._layers = layers

    def tokens(self) -> np.ndarray:
        """The likeliest token of every row, [rows] int64."""
        tokens = [layer.tokens() for layer in self._layers]
        return tokens[0] if len(tokens) == 1 else np.concatenate(tokens)

    def logits(self) -> Tensor:
        """[rows, vocabulary] float32. Computed here where the choice was found without."""
        logits = [layer.logits() for layer in self._layers]
        return logits[0] if len(logits) == 1 else torch.cat(logits)


class KnownLogits:
    """Logits [n, vocabulary] that are known."""

    def __init__(self, logits: Tensor):
        self._logits = logits

    def tokens(self) -> np.ndarray:
        return self._logits.argmax(-1).cpu().numpy()

    def logits(self) -> Tensor:
        return self._logits


class SomeOf:
    """Scores of some rows, by an index array [n]."""

    def __init__(self, scores: LayerScores, indices: np.ndarray):
        self._scores, self._indices = scores, indices

    def tokens(self) -> np.ndarray:
        return self._scores.tokens()[self._indices]

    def logits(self) -> Tensor:
        logits = self._scores.logits()
        return logits[torch.from_numpy(self._indices).to(logits.device)]
