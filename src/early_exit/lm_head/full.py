"""The whole LM head."""

from collections.abc import Callable

import numpy as np
from torch import Tensor

from early_exit.decoding.kv_cache import on_device
from early_exit.kernels.interface import Items, Kernels, Top
from early_exit.lm_head.scores import KnownLogits, LayerScores


class Reading:
    """What the head says of the states [n, d_model] of items that a layer has just run.

    `logits` are computed once, if asked for: [n, vocabulary], or [n, K] of propagated tokens; float32.
    """

    def __init__(self, items: Items, states: Tensor, compute: Callable[["Reading"], Tensor]):
        self.items, self.states = items, states
        self.known: Tensor | None = None
        self.top: Top | None = None  # where that was asked for instead
        self._compute = compute

    def logits(self) -> Tensor:
        if self.known is None:
            self.known = self._compute(self)
        return self.known


class FullHead:
    """The whole head, for every question.

    counts, kept: of the heads that have them, see `early_exit.decoding.results.DecodedBatch`.
    """

    counts: dict[str, int] | None = None
    kept: Callable[[], tuple[int, int]] | None = None

    def __init__(self, kernels: Kernels):
        self._kernels = kernels

    def adapted(self, layer: int, states: Tensor) -> Tensor:
        """What is to be read of the outputs [n, d_model] of a layer; see `Kernels.adapted`."""
        return self._kernels.adapted(layer, states)

    def read(self, items: Items, states: Tensor) -> Reading:
        return Reading(items, states, lambda reading: self._kernels.logits(reading.states))

    def response(self, reading: Reading, limits: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
        """Bounds [n] of softmax response, where this head has them cheaper than from logits."""
        if not self._kernels.fuses_top:
            return None
        reading.top = self._kernels.top(reading.states)
        return reading.top.response, reading.top.response

    def forget(self, slots: np.ndarray) -> None:
        """Other rows are in these slots now."""

    def remembers(self, items: Items) -> bool:
        """Whether what was read of these items at a lower layer decides what they choose from now."""
        return False

    def answers(self, reading: Reading) -> bool:
        """Whether `scores_of` costs nothing more."""
        return reading.known is not None or reading.top is not None

    def scores_of(self, reading: Reading, leaves: np.ndarray) -> LayerScores:
        """What those of the items that leave, [n] bool, choose from."""
        if reading.top is not None:
            return TopTokens(reading.top.tokens[leaves], chosen(reading.states, leaves), self._kernels.logits)
        return KnownLogits(chosen(reading.logits(), leaves))

    def early(self, states: Tensor) -> LayerScores:
        """The same as `unasked`, of exits below full depth."""
        return self.unasked(states)

    def unasked(self, states: Tensor) -> LayerScores:
        """What items choose from that left without a question to the head; states: [n, d_model]."""
        if self._kernels.fuses_top:
            return TopTokens(None, states, self._kernels.logits, self._kernels.top)
        return KnownLogits(self._kernels.logits(states))


class TopTokens:
    """The likeliest tokens [n], known or found when they are asked for; logits are computed for whoever wants
    them."""

    def __init__(
        self,
        tokens: np.ndarray | None,
        states: Tensor,
        logits: Callable[[Tensor], Tensor],
        top: Callable[[Tensor], Top] | None = None,
    ):
        """states: what `logits` and `top` take."""
        self._tokens, self._states, self._logits, self._top = tokens, states, logits, top

    def tokens(self) -> np.ndarray:
        return self._top(self._states).tokens if self._tokens is None else self._tokens

    def logits(self) -> Tensor:
        return self._logits(self._states)


def chosen(tensor: Tensor, mask: np.ndarray) -> Tensor:
    """The rows of a tensor that a host mask [n] names; the tensor itself where it names all."""
    return tensor if mask.all() else tensor[on_device(mask.nonzero()[0], tensor.device)]
