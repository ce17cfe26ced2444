"""The float32 LM head through its int8 copy: the same tokens and exits, for less."""

import numpy as np
from torch import Tensor

from early_exit.kernels.interface import Items, Kernels
from early_exit.kernels.native.screen import SCREEN_COUNTS, Screen, Screened
from early_exit.lm_head.full import FullHead, Reading, TopTokens, chosen
from early_exit.lm_head.scores import LayerScores


class ScreenedHead(FullHead):
    """Answers from a screen; counts how often it was asked, and what that took."""

    def __init__(self, kernels: Kernels, screen: Screen):
        super().__init__(kernels)
        self._screen, self._logits = screen, screen.head.logits
        self._answer: tuple[Reading, Screened] | None = None  # of the last reading
        self.counts = dict.fromkeys(SCREEN_COUNTS, 0)

    def read(self, items: Items, states: Tensor) -> Reading:
        return Reading(items, states, lambda reading: self._logits(reading.states))

    def response(self, reading: Reading, limits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        answer = self._counted(self._screen.response(reading.states, limits))
        self._answer = (reading, answer)
        return answer.low, answer.high

    def answers(self, reading: Reading) -> bool:
        return super().answers(reading) or (self._answer is not None and self._answer[0] is reading)

    def scores_of(self, reading: Reading, leaves: np.ndarray) -> LayerScores:
        if self._answer is None or self._answer[0] is not reading:
            return super().scores_of(reading, leaves)
        return TopTokens(self._answer[1].tokens[leaves], chosen(reading.states, leaves), self._logits)

    def unasked(self, states: Tensor) -> LayerScores:
        return TopTokens(self._counted(self._screen.tokens(states)).tokens, states, self._logits)

    def _counted(self, answer: Screened) -> Screened:
        self.counts["asked"] += len(answer.tokens)
        self.counts["candidates"] += int(answer.candidates[~answer.fell_back].sum())
        self.counts["fell_back"] += int(answer.fell_back.sum())
        return answer
