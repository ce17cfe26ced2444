"""What exit heads are trained on: whether a layer's likeliest token is full depth's.

References: CALM, Schuster et al. 2022, section 3.5 and appendix B (independent and geometric-like
objectives).
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

HeadLabels = Callable[[Tensor], Tensor]


def independent(agrees: Tensor) -> Tensor:
    """Every layer is labelled for every token. agrees: [L − 1, tokens] bool → the same shape, all True."""
    return torch.ones_like(agrees)


def geometric(agrees: Tensor) -> Tensor:
    """Layers are labelled up to the first that agrees: the cross-entropy is then −log of the probability of
    leaving just there, q_i · Π_{j<i} (1 − q_j). agrees: [L − 1, tokens] bool → the same shape, bool."""
    agreed_before = agrees.cumsum(0) - agrees.long()
    return agreed_before == 0


HEAD_LOSSES: dict[str, HeadLabels] = {"independent": independent, "geometric": geometric}


def labelled_layers(name: str, agrees: Tensor) -> Tensor:
    """Which layers a loss of `HEAD_LOSSES` labels, by token: [L − 1, tokens] bool.

    Raises ValueError for an unknown name.
    """
    if name not in HEAD_LOSSES:
        raise ValueError(f"unknown exit head loss {name!r}; known: {', '.join(HEAD_LOSSES)}")
    return HEAD_LOSSES[name](agrees)


def head_cross_entropy(log_odds: Tensor, agrees: Tensor, labelled: Tensor) -> Tensor:
    """Binary cross-entropy: mean over layers, sum over tokens, of labelled pairs; a scalar.

    log_odds: [L − 1, tokens], float; agrees, labelled: the same shape, bool.
    """
    losses = binary_cross_entropy_with_logits(log_odds, agrees.to(log_odds.dtype), reduction="none")
    return (losses * labelled).sum() / len(losses)
