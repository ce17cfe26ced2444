"""Plain greedy decoding: the likeliest token, until one of some tokens, or the length, ends the text."""

from dataclasses import dataclass

import numpy as np

from early_exit.lm_head.scores import Scores


@dataclass(frozen=True)
class GreedyChoice:
    """A choice of tokens (`early_exit.decoding.exits.Choose`) that depends on nothing but the scores, so that
    compiled kernels can make it themselves. ends: [n] int64, tokens that end a text."""

    ends: np.ndarray

    def __call__(
        self, prompts: np.ndarray, lengths: np.ndarray, scores: Scores
    ) -> tuple[np.ndarray, np.ndarray]:
        tokens = scores.tokens()
        return tokens, np.isin(tokens, self.ends)
