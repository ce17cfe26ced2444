"""Confidence measures: how sure a decoder layer is of the next token.

A measure is a pure function of what one layer shows; `MEASURES` names them. To add one, write the
function, name it there, and add it to the parametrised test in tests/early_exit/test_confidence.py.

References: CALM, Schuster et al. 2022, section 3.5.
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class LayerView:
    """What a measure may look at after a decoder layer.

    hidden, previous: [rows, d_model], the raw outputs of this layer and of the one before.
    logits: returns the exit's logits [rows, vocabulary]. A call, because they cost several decoder
    layers: a measure that does not ask for them does not pay for them.
    """

    hidden: Tensor
    previous: Tensor
    logits: Callable[[], Tensor]


Measure = Callable[[LayerView], Tensor]


def softmax_response(logits: Tensor) -> Tensor:
    """Gap between the two likeliest tokens: CALM's "softmax response" (section 3.5).

    logits: [rows, vocabulary], unnormalised, any float dtype, vocabulary >= 2.
    Returns [rows], float32 in [0, 1].
    """
    top2 = logits.float().softmax(-1).topk(2, dim=-1).values  # [rows, 2]
    return top2[:, 0] - top2[:, 1]


MEASURES: dict[str, Measure] = {
    "softmax": lambda view: softmax_response(view.logits()),
}


def get_measure(name: str) -> Measure:
    """The measure of that name. Raises ValueError with the known names."""
    if name not in MEASURES:
        raise ValueError(f"unknown confidence measure {name!r}; known: {', '.join(MEASURES)}")
    return MEASURES[name]
