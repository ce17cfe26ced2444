"""Confidence measures: how sure a decoder layer is of the next token.

A measure is a pure function of what one layer shows; `MEASURES` names them and says what each asks for. To
add one, write the function, name it there, and add it to the parametrised test in
tests/early_exit/test_confidence.py. Exit heads are measures too, named by their kind and width
(`early_exit.heads`).

References: CALM, Schuster et al. 2022, section 3.5.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from early_exit.heads import HEAD_NAMES, head_kind


@dataclass(frozen=True)
class LayerView:
    """What a measure may look at after a decoder layer.

    hidden, previous: [rows, d_model], the raw outputs of this layer and of the one before.
    The rest are calls, because they cost: a measure that does not ask for them does not pay for them.
    logits: the exit's logits [rows, vocabulary]. head: the layer's exit head, [rows], log-odds that this
    exit agrees with full depth, as if half of the exits here did. final_tokens:
    [rows] int64, the likeliest token at full depth; runs all deeper layers.
    """

    hidden: Tensor
    previous: Tensor
    logits: Callable[[], Tensor]
    head: Callable[[], Tensor]
    final_tokens: Callable[[], Tensor]


@dataclass(frozen=True)
class Measure:
    """A confidence measure, and what others need to know of it.

    confidence: of a `LayerView`, [rows] float32 in [0, 1], the range that thresholds have. What it asks of
    the view: reads_lm_head, the exit's logits (its cost: the LM head at every exit tried); needs_exit_head,
    a trained head; needs_full_depth, full depth's token, so that it serves evaluation only; reads_previous,
    the states before the layer.
    """

    confidence: Callable[[LayerView], Tensor]
    reads_lm_head: bool
    needs_exit_head: bool = False
    needs_full_depth: bool = False
    reads_previous: bool = False

    def __call__(self, view: LayerView) -> Tensor:
        return self.confidence(view)


def softmax_response(logits: Tensor) -> Tensor:
    """Gap between the two likeliest tokens: CALM's "softmax response" (section 3.5).

    logits: [rows, vocabulary], unnormalised, any float dtype. Returns [rows], float32 in [0, 1]; 1 where
    there is only one token.
    """
    if logits.shape[-1] == 1:
        return logits.new_ones(len(logits), dtype=torch.float32)
    top2 = logits.float().softmax(-1).topk(2, dim=-1).values  # [rows, 2]
    return top2[:, 0] - top2[:, 1]


def softmax_max(logits: Tensor) -> Tensor:
    """Probability of the likeliest token. [rows, vocabulary] → [rows], float32 in [0, 1]."""
    return logits.float().softmax(-1).amax(-1)


def negentropy(logits: Tensor) -> Tensor:
    """1 − H / log V, with H the entropy of the softmax over V >= 2 tokens.

    logits: [rows, V]. Returns [rows], float32 in [0, 1].
    """
    log_probabilities = logits.float().log_softmax(-1)
    entropy = torch.special.entr(log_probabilities.exp()).sum(-1)
    return (1 - entropy / math.log(logits.shape[-1])).clamp(0, 1)


def state_saturation(hidden: Tensor, previous: Tensor) -> Tensor:
    """Cosine similarity of two layers' outputs, 0 where it is negative: CALM's "hidden-state saturation"
    (section 3.5). [rows, d_model] twice → [rows], float32 in [0, 1]."""
    return cosine_similarity(hidden.float(), previous.float(), dim=-1).clamp(0, 1)


def agreement(logits: Tensor, final_tokens: Tensor) -> Tensor:
    """1 where this exit's likeliest token is full depth's, 0 elsewhere: the upper bound of all measures.

    logits: [rows, vocabulary]; final_tokens: [rows] int64. Returns [rows], float32.
    """
    return (logits.argmax(-1) == final_tokens).float()


MEASURES: dict[str, Measure] = {
    "softmax": Measure(lambda view: softmax_response(view.logits()), reads_lm_head=True),
    "softmax_max": Measure(lambda view: softmax_max(view.logits()), reads_lm_head=True),
    "entropy": Measure(lambda view: negentropy(view.logits()), reads_lm_head=True),
    "hidden_state": Measure(
        lambda view: state_saturation(view.hidden, view.previous), reads_lm_head=False, reads_previous=True
    ),
    "oracle": Measure(
        lambda view: agreement(view.logits(), view.final_tokens()), reads_lm_head=True, needs_full_depth=True
    ),
}
_EXIT_HEAD = Measure(lambda view: view.head().float().sigmoid(), reads_lm_head=False, needs_exit_head=True)


def known_measures() -> str:
    """All names, for a message."""
    return ", ".join([*MEASURES, *HEAD_NAMES])


def get_measure(name: str) -> Measure:
    """The measure of that name. Raises ValueError with the known names, or for a head's impossible width."""
    if name in MEASURES:
        return MEASURES[name]
    if head_kind(name) is not None:
        return _EXIT_HEAD
    raise ValueError(f"unknown confidence measure {name!r}; known: {known_measures()}")
