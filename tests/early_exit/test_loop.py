"""The compiled loop against the loops in Python over the same kernels: token for token, bit for bit."""

from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from early_exit import Engine, ExitPolicy, Prompt
from early_exit.decoding.greedy import GreedyChoice
from early_exit.kernels.native.kernels import NativeKernels
from early_exit.kernels.native.loop import serves
from early_exit.linear import PRECISIONS, has_native
from early_exit.models.adapter import decoder_tensors
from early_exit.models.exit_heads import packed_head
from tests.strategies import examples
from tests.tiny import HEADS, MODELS

pytestmark = [
    pytest.mark.skipif(not has_native("cpu"), reason="needs the compiled kernels"),
    pytest.mark.usefixtures("two_threads"),
]
LISTED = 20  # tokens of the engines' shortlist


def engine(precision: str) -> Engine:
    model = MODELS["t5"]
    with patch("early_exit.kernels.native.kernels.WORTH_SCREENING", 0):
        kernels = NativeKernels(decoder_tensors(model), precision)
    assert (kernels.token_screen is not None) == (precision == "float32")
    heads = {
        name: packed_head(model.exit_heads[name], kernels.norm_floor, kernels.dtype, precision)
        for name in HEADS
    }
    shortlist = kernels.shortlist(torch.arange(3, 3 + 2 * LISTED, 2))
    return Engine(kernels, heads, screen=kernels.screen(), shortlist=shortlist)


ENGINES = {precision: engine(precision) for precision in PRECISIONS} if has_native("cpu") else {}


@st.composite
def policies(draw, prompts: int):
    """Of all kinds that the compiled loop serves."""
    if draw(st.booleans()):
        exits = {
            "measure": draw(st.sampled_from(["softmax", "softmax_max", "entropy", "hidden_state", *HEADS])),
            "threshold": draw(st.sampled_from([0.0, 0.02, 0.1, 0.5, 0.9, 1.0])),
            "min_layer": draw(st.integers(0, 2)),
            "max_layer": draw(st.sampled_from([None, 2, 3])),
            "position_temperature": draw(st.sampled_from([None, 0.0, 4.0])),
        }
        if draw(st.booleans()):
            exits["threshold"] = torch.rand(prompts, generator=torch.Generator().manual_seed(prompts))
        exits["static_layer"] = draw(st.sampled_from([None, None, 1, 2, 3, 4]))
    elif draw(st.booleans()):
        exits = {"static_layer": draw(st.integers(1, 4))}
    else:
        layers = draw(st.lists(st.integers(1, 4), min_size=prompts * 3, max_size=prompts * 3))
        exits = {"static_layer": torch.tensor(layers).view(prompts, 3)}
    both = exits.get("measure") is not None and exits["static_layer"] is not None
    verify = None if both else draw(st.sampled_from([None, "parallel", "rollback", "exact", "lenient"]))
    limit = draw(st.sampled_from([0.0, 0.1, 0.7, 1.0]))
    drafts = {"verify": verify, "accept_ratio": limit, "rollback_threshold": limit}
    listed = {"shortlist": LISTED, "shortlist_at_full_depth": draw(st.booleans())}
    drafts |= draw(st.sampled_from([{}, listed, {"screen": True}]))
    return ExitPolicy(**exits, **drafts, max_draft=draw(st.integers(1, 5)))


@examples(2)
@given(data=st.data(), rows=st.integers(1, 5), prompts=st.integers(1, 7))
def test_the_compiled_loop_gives_what_python_gives(data, rows, prompts):
    policy = data.draw(policies(prompts))
    engine = ENGINES[data.draw(st.sampled_from(list(ENGINES)))]
    assert serves(policy, engine.kernels, engine.exit_head(policy))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    d_model = engine.kernels.tensors.spec.d_model
    tasks = [
        Prompt(
            torch.randn(data.draw(st.integers(1, 9)), d_model, generator=generator),
            np.array([0, 5, 8][: data.draw(st.integers(1, 3))]),
        )
        for _ in range(prompts)
    ]
    greedy = GreedyChoice(np.array([1, 6, 9, 31]))
    limit = data.draw(st.sampled_from([1, 3, 40]))

    def choose(*arguments):  # a function of one's own, which the library does not know
        return greedy(*arguments)

    streams = [engine.decode(tasks, policy, how, limit, rows) for how in (greedy, choose)]
    compiled, plain = ({row.prompt: row for row in stream} for stream in streams)
    assert (streams[0].screen is not None) == policy.screen
    if policy.verify not in ("rollback", "lenient"):  # which the compiled loop reads the whole head for, once
        assert streams[0].screen == streams[1].screen
    assert compiled.keys() == plain.keys() == set(range(prompts))
    for number, row in compiled.items():
        other = plain[number]
        assert row.tokens == other.tokens
        assert row.exit_layers == other.exit_layers
        assert np.array_equal(row.confidences, other.confidences, equal_nan=True) or np.allclose(
            row.confidences, other.confidences, atol=1e-6, equal_nan=True
        )
        assert row.max_stay_confidence == pytest.approx(other.max_stay_confidence, abs=1e-6)
        assert row.min_exit_confidence == pytest.approx(other.min_exit_confidence, abs=1e-6)
        assert row.drafting == other.drafting


@examples(2)
@given(data=st.data(), rows=st.integers(2, 6), seed=st.integers(0, 99))
def test_a_text_does_not_depend_on_the_rows_beside_it(data, rows, seed):
    policy = data.draw(policies(7))
    engine = ENGINES[data.draw(st.sampled_from(list(ENGINES)))]
    generator = torch.Generator().manual_seed(seed)
    d_model = engine.kernels.tensors.spec.d_model
    tasks = [
        Prompt(torch.randn(length, d_model, generator=generator), np.zeros(1, np.int64))
        for length in range(1, 8)
    ]
    alone, together = (
        sorted(
            engine.decode(tasks, policy, GreedyChoice(np.array([1, 6])), 25, at_once),
            key=lambda row: row.prompt,
        )
        for at_once in (1, rows)
    )
    for row, other in zip(together, alone, strict=True):
        assert (row.tokens, row.exit_layers) == (other.tokens, other.exit_layers)
        np.testing.assert_array_equal(row.confidences, other.confidences)


def test_nan_confidences_are_reported():
    engine = ENGINES["int8"]
    d_model = engine.kernels.tensors.spec.d_model
    prompt = Prompt(torch.full((3, d_model), torch.nan), np.zeros(1, dtype=np.int64))
    policy = ExitPolicy(measure="softmax", threshold=0.5)
    with pytest.raises(ValueError, match="'softmax' gave NaN"):
        list(engine.decode([prompt], policy, GreedyChoice(np.array([1])), 3, rows=1))
