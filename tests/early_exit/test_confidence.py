import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from early_exit.confidence import MEASURES, LayerView, get_measure


def probabilities(logits):
    exponentials = [math.exp(value - max(logits)) for value in logits]
    return [each / math.fsum(exponentials) for each in exponentials]


def softmax_response(hidden, previous, logits, head, final):
    """Gap of the two largest probabilities, in float64 and plain Python."""
    *_, second, first = [0.0, *sorted(probabilities(logits))]
    return first - second


def entropy(hidden, previous, logits, head, final):
    shares = [share for share in probabilities(logits) if share > 0]
    return 1 + math.fsum(share * math.log(share) for share in shares) / math.log(len(logits))


def hidden_state(hidden, previous, logits, head, final):
    product = math.fsum(a * b for a, b in zip(hidden, previous, strict=True))
    return max(0.0, product / (max(math.hypot(*hidden), 1e-8) * max(math.hypot(*previous), 1e-8)))


# A measure → its definition for one row, from lists of floats and the token that full depth finds likeliest.
DEFINITIONS = {
    "softmax": softmax_response,
    "softmax_max": lambda hidden, previous, logits, head, final: max(probabilities(logits)),
    "entropy": entropy,
    "hidden_state": hidden_state,
    "oracle": lambda hidden, previous, logits, head, final: float(logits.index(max(logits)) == final),
    "vanilla_classifier": lambda hidden, previous, logits, head, final: 1 / (1 + math.exp(-head)),
}

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

    logits, head = matrix(vocabulary), matrix(1)[:, 0].clamp(-30, 30)
    final = torch.tensor(draw(st.lists(st.integers(0, vocabulary - 1), min_size=count, max_size=count)))
    return LayerView(matrix(width), matrix(width), lambda: logits, lambda: head, lambda: final)


def test_every_measure_has_a_definition():
    assert set(MEASURES) < set(DEFINITIONS)


@pytest.mark.parametrize("name", DEFINITIONS)
@given(view=views())
def test_a_measure_equals_its_definition_row_by_row(name, view):
    measured = get_measure(name)(view)
    shown = (view.hidden, view.previous, view.logits(), view.head(), view.final_tokens())
    expected = [
        DEFINITIONS[name](*(each.double().tolist() for each in row)) for row in zip(*shown, strict=True)
    ]
    assert measured.dtype == torch.float32
    assert measured.tolist() == pytest.approx(expected, abs=1e-5)
    assert ((measured >= 0) & (measured <= 1)).all()


@pytest.mark.parametrize("name", DEFINITIONS)
def test_every_measure_accepts_half_precision(name):
    hidden = torch.randn(3, 8, dtype=torch.bfloat16)
    logits = torch.randn(3, 11, dtype=torch.bfloat16)
    view = LayerView(hidden, hidden, lambda: logits, lambda: hidden[:, 0], lambda: torch.arange(3))
    assert get_measure(name)(view).dtype == torch.float32


def test_unknown_measure_lists_the_known():
    with pytest.raises(ValueError, match=r"'softmaxx'.*softmax"):
        get_measure("softmaxx")


@pytest.mark.parametrize("width", ["", "0", "-1", "1.5", "wide", "064"])
def test_an_impossible_width_is_named(width):
    with pytest.raises(ValueError, match="is not a whole number from 1 on"):
        get_measure(f"transformer_MLP_{width}")
