"""The screened LM head against float64 arithmetic over the whole head."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from early_exit.confidence import softmax_response
from early_exit.kernels.native.screen import Screen
from early_exit.linear import has_native
from early_exit.models.loading import load_model

pytestmark = pytest.mark.skipif(not has_native("cpu"), reason="needs the compiled kernels")
YARDSTICK = Path(__file__).parents[3] / "shared" / "checkpoints" / "e2e-small"


def heads(kind: str, vocabulary: int, width: int, generator) -> torch.Tensor:
    """LM heads, and those that are made to be hard."""
    weight = torch.randn(vocabulary, width, generator=generator)
    if kind == "outliers":  # in some rows, and in one column, so that int8 has little left for the others
        weight[:: max(1, vocabulary // 3)] *= 50
        weight[:, 0] *= 30
    elif kind == "ties":
        weight[vocabulary // 2 :] = weight[: vocabulary - vocabulary // 2].clone()
    elif kind == "zeros":
        weight[::2] = 0
    elif kind == "nearly equal":
        weight = weight[:1] + 1e-3 * weight
    elif kind == "half a step":  # every rounding error is as large as it gets, and of one sign
        weight = torch.full_like(weight, 0.5 / 127)
        weight[:, -1] = 1
    return weight


@st.composite
def questions(draw):
    """Head, states and limits."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**20)))
    vocabulary, width, rows = draw(st.integers(2, 300)), draw(st.integers(1, 64)), draw(st.integers(1, 32))
    kind = draw(st.sampled_from(["random", "outliers", "ties", "zeros", "nearly equal", "half a step"]))
    weight = heads(kind, vocabulary, width, generator)
    states = torch.randn(rows, width, generator=generator)
    if draw(st.booleans()):  # confident ones: along a row of the head
        states = weight[torch.randint(vocabulary, (rows,), generator=generator)] + 0.1 * states
    states *= draw(st.sampled_from([0.0, 1e-20, 1e-3, 0.1, 0.3, 1.0, 3.0, 100.0, 1e6]))
    limits = draw(st.lists(st.floats(0, 1, width=32), min_size=rows, max_size=rows))
    return weight, states, np.array(limits, dtype=np.float32)


@given(questions())
def test_tokens_and_decisions_are_those_of_float64(question):
    weight, states, limits = question
    head = Screen(weight)
    answer, tokens = head.response(states, limits), head.tokens(states).tokens
    logits = states.double() @ weight.double().T
    # What float32's own arithmetic leaves in doubt, of a logit and so of a probability.
    doubt = 4e-6 * states.double().norm(dim=1) * weight.double().norm(dim=1).max() + 1e-12
    for found in (answer.tokens, tokens):
        chosen = logits.gather(1, torch.from_numpy(found)[:, None])[:, 0]
        assert (chosen >= logits.amax(1) - doubt).all()
    top2 = logits.softmax(-1).topk(2).values
    confidence = (top2[:, 0] - top2[:, 1]).numpy()
    doubt = doubt.clamp(max=1).numpy() + 2e-5
    assert (answer.low <= confidence + doubt).all()
    assert (answer.high >= confidence - doubt).all()
    leaves = answer.low > limits
    assert (leaves | (answer.high <= limits)).all()
    assert (leaves[confidence > limits + doubt]).all()
    assert not leaves[confidence < limits - doubt].any()


@pytest.mark.parametrize("kind", ["random", "zeros"])
def test_it_settles_most_questions_itself(kind):
    """Guards the test above: the whole head's answers are right anyhow."""
    generator = torch.Generator().manual_seed(0)
    weight = heads(kind, 2000, 64, generator)
    states = torch.randn(200, 64, generator=generator) * (0.5 if kind == "random" else 0.05)
    answer = Screen(weight).response(states, np.full(200, 0.5, dtype=np.float32))
    assert answer.fell_back.mean() < 0.1
    assert (answer.candidates[~answer.fell_back] <= 64).all()


def test_equal_rows_of_the_head_give_the_first_of_them():
    weight = torch.randn(40, 16, generator=torch.Generator().manual_seed(0))
    weight[30] = weight[7]
    answer = Screen(weight).response(3 * weight[7][None], np.array([0.5], dtype=np.float32))
    assert answer.tokens.tolist() == [7]
    assert answer.high[0] < 1e-3


def test_bounds_decide_as_they_are_stored():
    """In float32, where a bound just beyond the limit may become the limit."""
    weight, limit = torch.tensor([[1.5410], [-0.2934]]), np.array([0.99999], dtype=np.float32)
    answer = Screen(weight).response(torch.tensor([[52.2860]]), limit)
    assert (answer.low > limit) | (answer.high <= limit)


def test_a_row_does_not_depend_on_its_batch():
    generator = torch.Generator().manual_seed(0)
    weight, states = torch.randn(500, 32, generator=generator), torch.randn(9, 32, generator=generator)
    head, limits = Screen(weight), np.full(9, 0.3, dtype=np.float32)
    together = head.response(states, limits)
    for row in range(9):
        alone = head.response(states[row, None], limits[:1])
        assert alone.tokens[0] == together.tokens[row]
        assert (alone.low[0] > 0.3) == (together.low[row] > 0.3)


def test_states_that_are_not_finite_are_left_to_the_whole_head():
    weight = torch.randn(40, 16)
    answer = Screen(weight).response(torch.full((1, 16), torch.nan), np.zeros(1, dtype=np.float32))
    assert answer.fell_back.all()
    assert np.isnan(answer.low).all()


@pytest.mark.slow
@pytest.mark.skipif(not YARDSTICK.exists(), reason="needs the trained model beside the project")
def test_on_a_trained_model_it_rarely_needs_the_whole_head():
    model = load_model(str(YARDSTICK)).eval()
    labels = torch.randint(5, 1300, (40, 20), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        outputs = model(input_ids=labels, labels=labels, output_hidden_states=True)
        states = torch.cat([state.flatten(0, 1) for state in outputs.decoder_hidden_states[1:-1]])
        inputs = model.head_input(model.decoder.final_layer_norm(states))
        confidence = softmax_response(model.lm_head(inputs)).numpy()
    head = Screen(model.lm_head.weight)
    for limit in (0.1, 0.5, 0.9):
        answer = head.response(inputs, np.full(len(inputs), limit, dtype=np.float32))
        assert answer.fell_back.mean() < 0.05
        assert ((answer.low > limit) == (confidence > limit)).all()
        assert answer.tokens.tolist() == model.lm_head(inputs).argmax(-1).tolist()
