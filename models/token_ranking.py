"""Which tokens are frequent: for exits that choose from a shortlist (`early_exit.lm_head.shortlist`).

A model's ranking is a buffer, `token_ranking`, saved beside its T5 tensors; `config.token_ranking` is its
length.
"""

from collections import Counter
from collections.abc import Iterable
from itertools import chain

import torch
from torch import Tensor


def rank_tokens(texts: Iterable[Iterable[int]], vocabulary: int) -> Tensor:
    """All tokens [vocabulary] int64, the most frequent first, of equals the lower number.

    texts: numbers of tokens, as labels are: negative ones do not count. Raises ValueError for a token outside
    of the vocabulary.
    """
    counts = Counter(chain.from_iterable(texts))
    highest = max(counts, default=0)
    if highest >= vocabulary:
        raise ValueError(f"token {highest} of a vocabulary of {vocabulary}")
    return torch.tensor(sorted(range(vocabulary), key=lambda token: (-counts[token], token)))


def shortlist_of(model, size: int) -> Tensor:
    """The most frequent `size` tokens of a model's ranking, rising, on the CPU. Raises ValueError where it
    has none, not so many, or numbers that are no tokens."""
    if model.token_ranking is None:
        raise ValueError(
            "the model has no ranking of tokens, which a shortlist is taken from: train it here, or rank "
            "the tokens of texts like those it is to write (python -m runner.rank_tokens)"
        )
    if size > len(model.token_ranking):
        raise ValueError(f"a shortlist of {size} tokens, of a ranking of {len(model.token_ranking)}")
    listed = model.token_ranking[:size].sort().values.cpu()
    vocabulary = len(model.lm_head.weight)
    if listed[0] < 0 or listed[-1] >= vocabulary or len(listed.unique()) < size:
        raise ValueError("the model's configuration speaks of a ranking of tokens that its weights lack")
    return listed
