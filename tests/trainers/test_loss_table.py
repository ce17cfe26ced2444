"""Columns of a loss table are what decoding each threshold on its own gives, in whatever order they come."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from early_exit import DecodingSetting, ExitPolicy
from early_exit.linear import has_native
from tests.tiny import MODELS, source_batch
from trainers import loss_table
from trainers.loss_table import LossTable, PromptDecoder, Text


class Decoder:
    """Texts of tokens with known confidences: those above λ are written at an exit, as 1, others as 0."""

    keeps_full_depth = True

    def __init__(self, confidences):
        self.confidences, self.indices = confidences, list(range(len(confidences)))

    def decode(self, wanted, policy, precision):
        return [self.text(self.confidences[prompt], policy.threshold) for prompt in wanted]

    def text(self, confidences, threshold):
        tokens = [int(each > threshold) for each in confidences]
        stay = max((each for each in confidences if each <= threshold), default=-1.0)
        return Text(tokens, 4.0 - sum(tokens), stay)


def share_of_exits(prompt, early, full):
    return sum(early) / max(1, len(early)), 0.0


def softmax(threshold, **fields):
    return DecodingSetting(ExitPolicy(measure="softmax", threshold=threshold, **fields))


levels = st.sampled_from([0.1, 0.3, 0.5, 0.7, 0.9])
prompts = st.lists(st.lists(levels, min_size=1, max_size=4), min_size=1, max_size=4)


@given(prompts, st.lists(st.tuples(levels, st.sampled_from([0, 2])), min_size=1, max_size=6))
def test_copied_texts_are_those_of_the_threshold(confidences, asked):
    table = LossTable(Decoder(confidences), share_of_exits)
    for threshold, first in asked:
        expected = [sum(each > threshold for each in row) / len(row) for row in confidences]
        assert table.column(softmax(threshold, min_layer=first)).losses == pytest.approx(expected)


def test_a_higher_threshold_after_a_lower_one_is_decoded_again():
    table = LossTable(Decoder([[0.5, 0.8]]), share_of_exits)
    assert table.column(softmax(0.3)).losses == [1.0]
    assert table.column(softmax(0.9)).losses == [0.0]


class Arguments:
    process_index, world_size, eval_batch_size = 0, 1, 4
    generation_max_length, generation_num_beams = 9, None


def real_table(decoded=None):
    """Of three prompts; decoded: gets what is decoded."""
    inputs = source_batch(3, 6)
    rows = [tokens[mask == 1].tolist() for tokens, mask in zip(*inputs.values(), strict=True)]

    class Noting(PromptDecoder):
        def decode(self, wanted, policy, precision):
            if decoded is not None:
                decoded.append((policy, precision))
            return super().decode(wanted, policy, precision)

    decoder = Noting(MODELS["t5"], Arguments, [{"input_ids": row} for row in rows])
    return LossTable(decoder, lambda prompt, early, full: (float(early != full), 0.0))


@pytest.mark.skipif(not has_native("cpu"), reason="needs the compiled kernels")
@pytest.mark.parametrize("precision", ["int8", "float32"])
def test_exact_drafts_are_compared_with_full_depth_through_the_same_screen(precision):
    """It answers for the LM head in float32, which in int8 writes other texts."""
    decoded, policy = [], ExitPolicy(static_layer=1, verify="exact", screen=True)
    real_table(decoded).column(DecodingSetting(policy, precision))
    deep = (ExitPolicy(screen=precision == "int8"), precision)
    assert decoded == list(dict.fromkeys([(ExitPolicy(), "float32"), deep, (policy, precision)]))


def test_where_kernels_may_round_otherwise_exact_drafts_are_decoded(monkeypatch):
    monkeypatch.setattr(loss_table, "has_native", lambda device: False)
    table = real_table()
    column = table.column(softmax(0.1, verify="exact"))
    assert column.decoded == 3
    assert len(set(column.layers)) > 1  # each prompt's own, and no mean of a sample
