import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from early_exit.confidence import MEASURES, LayerView, get_measure


def softmax_response(hidden, previous, logits):
    """Gap of the two largest probabilities, in float64 and plain Python."""
    exponentials = sorted(math.exp(value - max(logits)) for value in logits)
    return (exponentials[-1] - exponentials[-2]) / math.fsum(exponentials)


# A measure → its definition for one row, from lists of floats.
DEFINITIONS = {"softmax": softmax_response}

rows = st.integers(1, 4)
values = st.one_of(
    st.floats(-30, 30, width=32),
    st.sampled_from([0.0, 1.0, 1e4, -1e4]),  # ties, and gaps that saturate a softmax
)


@st.composite
def views(draw):
    count, width, vocabulary = draw(rows), draw(st.integers(1, 6)), draw(st.integers(2, 9))

    def matrix(columns):
        return torch.tensor(draw(st.lists(values, min_size=count * columns, max_size=count * columns))).view(
            count, columns
        )

    logits = matrix(vocabulary)
    return LayerView(matrix(width), matrix(width), lambda: logits)


@pytest.mark.parametrize("name", MEASURES)
@given(view=views())
def test_a_measure_equals_its_definition_row_by_row(name, view):
    measured = get_measure(name)(view)
    expected = [
        DEFINITIONS[name](*(row.double().tolist() for row in triple))
        for triple in zip(view.hidden, view.previous, view.logits(), strict=True)
    ]
    assert measured.dtype == torch.float32
    assert measured.tolist() == pytest.approx(expected, abs=1e-5)
    assert ((measured >= 0) & (measured <= 1)).all()


@pytest.mark.parametrize("name", MEASURES)
def test_every_measure_accepts_half_precision(name):
    hidden = torch.randn(3, 8, dtype=torch.bfloat16)
    view = LayerView(hidden, hidden, lambda: torch.randn(3, 11, dtype=torch.bfloat16))
    assert get_measure(name)(view).dtype == torch.float32


def test_unknown_measure_lists_the_known():
    with pytest.raises(ValueError, match=r"'softmaxx'.*softmax"):
        get_measure("softmaxx")
