"""Exits below full depth read a few rows of the LM head: those of the tokens that are likeliest by frequency.

A list by frequency makes drafts of speculative decoding cheap in FR-Spec (Zhao et al. 2025, section 3); lists
of target words serve neural translation since Jean et al. 2015. Here it makes a question to the head, and
the token of an early exit, cheap: the rows of 1,000 tokens of T5-small are a seventh of a decoder layer, all
32,128 are four and a half.
"""

import numpy as np
from torch import Tensor

from early_exit.kernels.interface import Items, Kernels, Shortlist
from early_exit.lm_head.full import FullHead, Reading, TopTokens, chosen
from early_exit.lm_head.scores import KnownLogits, LayerScores
from early_exit.lm_head.top_k import NOT_PROPAGATED


class ShortlistHead(FullHead):
    """Questions and choices of early exits go to the shortlist, those of full depth to the whole head, or to
    the shortlist too."""

    def __init__(self, kernels: Kernels, shortlist: Shortlist, at_full_depth: bool):
        super().__init__(kernels)
        self._shortlist, self._vocabulary = shortlist, len(kernels.tensors.head)
        self._at_full_depth = at_full_depth

    def read(self, items: Items, states: Tensor) -> Reading:
        """Of exits below full depth."""
        return Reading(items, states, lambda reading: self._logits(reading.states))

    def response(self, reading: Reading, limits: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
        if not self._kernels.fuses_top:
            return None
        reading.top = self._shortlist.top(reading.states)
        return reading.top.response, reading.top.response

    def scores_of(self, reading: Reading, leaves: np.ndarray) -> LayerScores:
        if reading.top is None:
            return KnownLogits(chosen(reading.logits(), leaves))
        return TopTokens(reading.top.tokens[leaves], chosen(reading.states, leaves), self._logits)

    def early(self, states: Tensor) -> LayerScores:
        if self._kernels.fuses_top:
            return TopTokens(None, states, self._logits, self._shortlist.top)
        return KnownLogits(self._logits(states))

    def unasked(self, states: Tensor) -> LayerScores:
        return self.early(states) if self._at_full_depth else super().unasked(states)

    def _logits(self, states: Tensor) -> Tensor:
        """[n, d_model] → [n, vocabulary], NOT_PROPAGATED for tokens that are not listed."""
        tokens, logits = self._shortlist.tokens, self._shortlist.logits(states)
        everything = logits.new_full((len(states), self._vocabulary), NOT_PROPAGATED)
        return everything.index_copy_(1, tokens, logits)
