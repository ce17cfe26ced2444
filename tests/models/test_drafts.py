"""Drafts: the text of full depth, token for token; and against the loop that runs every token at once."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from early_exit import PRECISIONS, ExitPolicy
from early_exit.linear import has_native
from early_exit.models.generation import reference_generate
from early_exit.policy import VERIFICATIONS
from tests.strategies import examples, shortlists
from tests.tiny import FAMILIES, HEADS, MODELS, source_batch

FULL_DEPTH = ExitPolicy()
leaving = st.one_of(
    st.builds(lambda layer: {"static_layer": layer}, st.integers(1, 3)),
    st.builds(
        lambda measure, threshold, first: {"measure": measure, "threshold": threshold, "min_layer": first},
        st.sampled_from(["softmax", "softmax_max", "entropy", "hidden_state", "MLP", *HEADS[2:]]),
        st.sampled_from([0.0, 0.01, 0.05, 0.2, 0.5, 0.9]),
        st.integers(0, 3),
    ),
)
exits = st.builds(lambda fields, shortlist: fields | {"shortlist": shortlist}, leaving, shortlists)
processors = st.sampled_from(
    [
        {},
        {"min_new_tokens": 6},
        {"no_repeat_ngram_size": 2, "repetition_penalty": 1.3},
        {"bad_words_ids": [[5], [7, 9]], "suppress_tokens": [11]},
        {"forced_eos_token_id": 1, "forced_bos_token_id": 8},
        {"encoder_no_repeat_ngram_size": 1},
    ]
)
ends = st.sampled_from([[1], [1, 6, 9, 13, 24, 31, 35, 41]])


@pytest.mark.parametrize("family", FAMILIES)
@examples(0.2)
@given(
    exits=exits,
    rows=st.integers(1, 5),
    max_draft=st.integers(1, 7),
    options=processors,
    eos=ends,
    deep=st.booleans(),
)
def test_exact_drafts_write_the_text_of_full_depth(family, exits, rows, max_draft, options, eos, deep):
    inputs = source_batch(rows, 9) | options | {"max_new_tokens": 11, "eos_token_id": eos}
    deep = deep and exits["shortlist"] is not None  # full depth chooses from the shortlist too
    policy = ExitPolicy(**exits, verify="exact", max_draft=max_draft, shortlist_at_full_depth=deep)
    full = ExitPolicy(shortlist=exits["shortlist"], shortlist_at_full_depth=True) if deep else FULL_DEPTH
    expected = MODELS[family].generate(**inputs, exit_policy=full)
    assert torch.equal(MODELS[family].generate(**inputs, exit_policy=policy), expected)


@pytest.mark.skipif(not has_native("cpu"), reason="needs the compiled kernels")
@pytest.mark.parametrize("precision", PRECISIONS)
@examples(0.2)
@given(exits=exits, rows=st.integers(1, 6), max_draft=st.integers(1, 7))
def test_they_do_in_every_precision(precision, exits, rows, max_draft):
    inputs = source_batch(rows, 9) | {"max_new_tokens": 14, "engine_precision": precision}
    policy = ExitPolicy(**exits, verify="exact", max_draft=max_draft)
    for model in (MODELS["t5"], MODELS["t5 v1.1"]):
        expected = model.generate(**inputs, exit_policy=FULL_DEPTH)
        assert torch.equal(model.generate(**inputs, exit_policy=policy), expected)


@pytest.mark.slow
@examples(0.8)
@given(
    exits=exits,
    verify=st.sampled_from(["parallel", "rollback", "exact", "lenient"]),
    rows=st.integers(1, 4),
    max_draft=st.integers(1, 6),
    limit=st.sampled_from([0.0, 0.02, 0.3, 0.8, 1.0]),
    options=processors,
    eos=ends,
    deep=st.booleans(),
)
def test_all_are_what_the_plain_loop_gives(exits, verify, rows, max_draft, limit, options, eos, deep):
    policy = ExitPolicy(
        **exits, verify=verify, max_draft=max_draft, accept_ratio=limit, rollback_threshold=limit
    )
    if deep and policy.shortlist is not None:
        policy = replace(policy, shortlist_at_full_depth=True)
    inputs = source_batch(rows, 7) | options
    inputs |= {
        "max_new_tokens": 9,
        "exit_policy": policy,
        "return_dict_in_generate": True,
        "eos_token_id": eos,
    }
    decoded = MODELS["t5"].generate(**inputs)
    expected = MODELS["t5"].generate(**inputs, custom_generate=reference_generate)
    assert torch.equal(decoded.sequences, expected.sequences)
    assert torch.equal(decoded.exit_layers, expected.exit_layers)
    torch.testing.assert_close(decoded.confidences, expected.confidences, atol=1e-4, rtol=0, equal_nan=True)
    for row, drafting in enumerate(decoded.drafting):
        tokens = int((decoded.exit_layers[row] > 0).sum())
        assert 0 <= drafting.accepted <= drafting.drafted
        assert drafting.layers >= int(decoded.exit_layers[row].sum())
        assert drafting.accepted + drafting.blocks >= tokens
        assert len(drafting.dropped) == drafting.drafted - drafting.accepted


def test_dropped_drafts_are_not_what_full_depth_writes():
    inputs = source_batch(4, 9) | {"max_new_tokens": 14, "return_dict_in_generate": True}
    decoded = MODELS["t5"].generate(**inputs, exit_policy=ExitPolicy(static_layer=1, verify="exact"))
    alone = ExitPolicy(static_layer=1, verify="exact", max_draft=1)  # each draft is checked by itself
    one_by_one = MODELS["t5"].generate(**inputs, exit_policy=alone)
    assert any(drafting.dropped for drafting in decoded.drafting)
    for text, drafting in zip(one_by_one.sequences[:, 1:].tolist(), one_by_one.drafting, strict=True):
        assert drafting.dropped
        assert all(text[place] != token for place, token in drafting.dropped)


def test_parallel_and_lenient_meet_where_everything_is_accepted():
    inputs = source_batch(4, 9) | {"max_new_tokens": 10}
    shallow = {"static_layer": 2, "max_draft": 4}
    texts = [
        MODELS["t5"].generate(**inputs, exit_policy=ExitPolicy(**shallow, **verify))
        for verify in (
            {"verify": "parallel"},
            {"verify": "lenient", "accept_ratio": 0.0},
            {"verify": "rollback", "rollback_threshold": 0.0},
        )
    ]
    assert torch.equal(texts[0], texts[1])
    assert torch.equal(texts[0], texts[2])


class Stream:
    """Keeps what it gets."""

    def __init__(self):
        self.tokens, self.ended = [], False

    def put(self, values):
        self.tokens += values.flatten().tolist()

    def end(self):
        self.ended = True


@pytest.mark.parametrize("options", [{}, {"do_sample": True}])
@pytest.mark.parametrize("verify", VERIFICATIONS)
def test_a_draft_is_streamed_once_when_it_is_settled(verify, options):
    if options and verify == "rollback":
        return  # for greedy decoding
    stream, policy = Stream(), ExitPolicy(static_layer=1, verify=verify, max_draft=3)
    options = options | {"max_new_tokens": 9, "exit_policy": policy, "streamer": stream}
    text = MODELS["t5"].generate(**source_batch(1, 9), **options)
    assert stream.ended
    assert stream.tokens == text[0].tolist()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"verify": "always", "static_layer": 1}, "unknown verification 'always'; known: parallel"),
        ({"verify": "exact"}, "need a confidence measure or a static layer"),
        ({"verify": "exact", "static_layer": 1, "max_draft": 0}, "0 drafts in a block"),
        ({"accept_ratio": 1.5}, r"accept_ratio 1.5 is outside \[0, 1\]"),
        ({"rollback_threshold": float("nan")}, "rollback_threshold nan"),
        ({"verify": "exact", "measure": "softmax", "top_k": 3}, "exclude each other"),
        ({"verify": "exact", "measure": "oracle"}, "would need full depth"),
    ],
)
def test_policies_that_cannot_be(fields, message):
    with pytest.raises(ValueError, match=message):
        ExitPolicy(**fields)


def test_drafts_stream_one_row():
    policy = ExitPolicy(static_layer=1, verify="exact")
    with pytest.raises(ValueError, match="stream one row, got 2"):
        MODELS["t5"].generate(**source_batch(2, 5), exit_policy=policy, streamer=Stream())


@pytest.mark.skipif(not has_native("cpu"), reason="needs the compiled kernels")
@pytest.mark.parametrize("precision", PRECISIONS)
def test_exact_drafts_through_a_screen_write_full_depths_text_through_it(precision):
    inputs = source_batch(4, 9) | {"max_new_tokens": 11, "engine_precision": precision}
    policy = ExitPolicy(measure="softmax", threshold=0.05, verify="exact", screen=True)
    expected = MODELS["t5"].generate(**inputs, exit_policy=ExitPolicy(screen=True))
    assert torch.equal(MODELS["t5"].generate(**inputs, exit_policy=policy), expected)
