"""Prompts in a stream against `generate` of each alone, and when a stream is not what `generate` does."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from early_exit import ExitPolicy
from early_exit.models.generation import reference_generate
from early_exit.models.sources import Source, Watch, encode_all
from early_exit.models.stream import decode_prompts, plain_greedy
from tests.strategies import batch_policies
from tests.tiny import FAMILIES, MODELS, TOLERANCES, source_batch


def sources_of(inputs) -> list[Source]:
    return [Source.of(*row) for row in zip(inputs["input_ids"], inputs["attention_mask"], strict=True)]


def decode_alone(model, source, policy, **options):
    output = model.generate(
        input_ids=source.tokens[None],
        attention_mask=source.mask[None],
        exit_policy=policy,
        return_dict_in_generate=True,
        **options,
    )
    return output.sequences[0, 1:], output.exit_layers[0], output.confidences[0], output


def assert_as_alone(model, texts, sources, policy, tolerance, **options):
    assert [row.prompt for row in texts.rows] == list(range(len(sources)))
    for number, (row, source) in enumerate(zip(texts.rows, sources, strict=True)):
        tokens, layers, confidences, output = decode_alone(model, source, policy.for_row(number), **options)
        assert row.tokens == tokens.tolist()
        assert row.exit_layers == layers.tolist()
        torch.testing.assert_close(
            torch.tensor(row.confidences), confidences, atol=tolerance, rtol=0, equal_nan=True
        )
        assert row.max_stay_confidence == pytest.approx(output.max_stay_confidence.item(), abs=tolerance)
        assert row.min_exit_confidence == pytest.approx(output.min_exit_confidence.item(), abs=tolerance)


@given(
    family=st.sampled_from([name for name in FAMILIES if name != "longt5 global"]),
    prompts=st.integers(1, 12),
    rows=st.integers(1, 5),
    seed=st.integers(0, 99),
    max_length=st.integers(2, 12),
    known=st.booleans(),
    data=st.data(),
)
def test_a_stream_gives_what_generate_gives_each_prompt(family, prompts, rows, seed, max_length, known, data):
    model = MODELS[family]
    policy = data.draw(batch_policies(prompts))
    # Texts that end at different steps, though random models rarely end by themselves.
    ends = data.draw(st.lists(st.integers(2, 96), min_size=1, max_size=20))
    options = {"max_length": max_length, "eos_token_id": ends}
    sources = sources_of(source_batch(prompts, 9, seed))
    states = encode_all(model.encoder, sources, rows, model.device) if known else None
    assert plain_greedy(model, options) is not None
    texts = decode_prompts(model, policy, "float32", sources, rows, options, states=states)
    assert_as_alone(model, texts, sources, policy, TOLERANCES[family], **options)


# What is not plain greedy decoding, and a stream could not do.
OTHERS = [
    {"min_length": 8},
    {"min_new_tokens": 4},
    {"no_repeat_ngram_size": 2, "repetition_penalty": 1.3},
    {"encoder_no_repeat_ngram_size": 1, "suppress_tokens": [0]},  # padding, which only a batch's sources hold
    {"suppress_tokens": [11, 12, 13]},
    {"forced_eos_token_id": 1},
    {"exponential_decay_length_penalty": (3, 1.5)},
    {"custom_generate": reference_generate},
    {"decoder_input_ids": torch.tensor([[0], [0]])},
    {"prefix_allowed_tokens_fn": lambda row, tokens: [5, 6, 7, 1]},
]


@pytest.mark.parametrize("options", OTHERS, ids=lambda options: "-".join(options))
def test_what_is_not_plain_greedy_goes_through_generate(options):
    model, policy = MODELS["t5"], ExitPolicy(measure="softmax", threshold=0.2)
    options = {"max_length": 9, "eos_token_id": list(range(2, 20))} | options
    sources = sources_of(source_batch(4, 9))
    streams = plain_greedy(model, options) is not None
    assert streams == ("decoder_input_ids" in options)
    texts = decode_prompts(model, policy, None, sources, 2, options)
    if streams:
        options.pop("decoder_input_ids")  # it is of two rows, and only the start token
    for row, source in zip(texts.rows, sources, strict=True):
        tokens, layers, *_ = decode_alone(model, source, policy, **options)
        assert (row.tokens, row.exit_layers) == (tokens.tolist(), layers.tolist())


@pytest.mark.parametrize(
    "options",
    [
        {"do_sample": True},
        {"stop_strings": ["a"]},
        {"max_time": 5.0},
        {"stopping_criteria": [lambda tokens, scores: False]},
        {"logits_processor": [lambda tokens, scores: scores]},
        {"num_beams": 2},
        {"num_return_sequences": 2, "do_sample": True},
        {"streamer": object()},
        {"max_length": 1},
        {"decoder_input_ids": torch.tensor([[0, 5]])},
        {"decoder_attention_mask": torch.tensor([[0, 1]])},
        {"output_scores": True, "return_dict_in_generate": True},
    ],
    ids=lambda options: next(iter(options)),
)
def test_these_are_not_plain_greedy(options):
    assert plain_greedy(MODELS["t5"], {"max_length": 9} | options) is None


def test_lengths_count_as_generate_counts_them():
    model = MODELS["t5"]
    assert plain_greedy(model, {}).max_new_tokens == 20  # transformers' default
    assert plain_greedy(model, {"max_length": 9}).max_new_tokens == 8
    assert plain_greedy(model, {"max_new_tokens": 9}).max_new_tokens == 9


@pytest.mark.parametrize(
    "policy", [None, ExitPolicy(measure="softmax", threshold=0.2)], ids=["stock", "exits"]
)
@pytest.mark.parametrize("streams", [True, False])
def test_masks_with_holes_left_padding_and_nothing_in_them(policy, streams):
    """Against the whole batch, padded as it came."""
    model, inputs = MODELS["t5"], source_batch(5, 9)
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    inputs["attention_mask"][0, 3:5] = 0
    inputs["attention_mask"][1, :4] = 0
    inputs["attention_mask"][2, 6:] = 0
    inputs["attention_mask"][3] = inputs["input_ids"][3] = 0
    options = {"max_length": 9, "eos_token_id": list(range(2, 20))}
    options |= {} if streams else {"min_length": 3}
    expected = model.generate(**inputs, **options, exit_policy=policy)
    sources = sources_of(inputs)
    assert [len(source) for source in sources] == [9, 9, 6, 1, 9]
    texts = decode_prompts(model, policy, None, sources, 2, options)
    for row, tokens in zip(texts.rows, expected[:, 1:].tolist(), strict=True):
        assert row.tokens == tokens[: len(row.tokens)]
        assert set(tokens[len(row.tokens) :]) <= {0}
        assert row.tokens[-1] in options["eos_token_id"] or len(row.tokens) == 8


@pytest.mark.parametrize("precision", ["int8", "w8a8", "bfloat16"])
def test_other_precisions(precision):
    model, policy = MODELS["t5 v1.1"], ExitPolicy(measure="softmax", threshold=0.2)
    options, sources = {"max_length": 9}, sources_of(source_batch(7, 9))
    texts = decode_prompts(model, policy, precision, sources, 3, options)
    same = 0
    for row, source in zip(texts.rows, sources, strict=True):
        tokens, *_ = decode_alone(model, source, policy, engine_precision=precision, **options)
        same += row.tokens == tokens.tolist()
    assert same >= 5 if precision == "bfloat16" else same == 7  # it rounds by the order of its sums


@pytest.mark.parametrize("knob", [{"top_k": 5}, {"screen": True}], ids=lambda knob: next(iter(knob)))
@pytest.mark.parametrize("streams", [True, False])
def test_counts_are_those_of_generate(monkeypatch, knob, streams):
    model, policy = MODELS["t5"], ExitPolicy(measure="softmax", threshold=0.2, **knob)
    options, sources = {"max_length": 9}, sources_of(source_batch(7, 9))
    monkeypatch.setattr("early_exit.models.stream._COUNTED_TOGETHER", 2)
    if not streams:
        monkeypatch.setattr("early_exit.models.stream.plain_greedy", lambda model, options: None)
    counts = decode_prompts(model, policy, None, sources, 3, options).counts
    kept = chosen = asked = 0
    for source in sources:
        *_, output = decode_alone(model, source, policy, **options)
        if output.kept is not None:
            kept, chosen = kept + output.kept()[0], chosen + output.kept()[1]
        asked += (output.screen or {}).get("asked", 0)
    assert (counts["kept"], counts["chosen"], counts["asked"]) == (kept, chosen, asked)


class _Log(Watch):
    def __init__(self):
        self.events = []

    def encoded(self, tokens):
        self.events.append(("encoded", tokens))

    def chose(self, tokens):
        self.events.append(("chose", tokens))


def test_no_step_and_no_encoding_is_spent_on_padding():
    """One long prompt and many short ones that end early: rows stay full while prompts wait."""
    model, watch = MODELS["t5"], _Log()
    lengths = [3, 40, 1, 2, 3, 2, 1, 3]
    sources = [Source.of(torch.arange(2, 2 + length)) for length in lengths]
    policy = ExitPolicy(static_layer=1)
    texts = decode_prompts(model, policy, None, sources, 4, {"max_length": 7}, watch=watch)
    encoded = [tokens for event, tokens in watch.events if event == "encoded"]
    assert encoded == [40 + 3 + 3 + 3, 2 + 2 + 1 + 1]
    chosen = [tokens for event, tokens in watch.events if event == "chose"]
    assert sum(chosen) == sum(len(row.tokens) for row in texts.rows)
    assert watch.events.index(("encoded", 6)) > 1  # when rows are free for them, not before


def test_there_may_be_nothing_to_decode():
    assert decode_prompts(MODELS["t5"], ExitPolicy(), None, [], 4, {}).rows == []


@pytest.mark.parametrize(
    ("policy", "options", "message"),
    [
        (ExitPolicy(static_layer=5), {}, "static exit layer 5 is outside 1 to 4"),
        (ExitPolicy(measure="softmax", threshold=torch.ones(3)), {}, "batch of 2 rows"),
        (ExitPolicy(), {"num_beams": 4}, "does not serve beam search"),
        (None, {"num_return_sequences": 2, "do_sample": True}, "4 texts for 2 prompts"),
    ],
)
def test_what_cannot_be_decoded_is_refused(policy, options, message):
    with pytest.raises(ValueError, match=message):
        decode_prompts(MODELS["t5"], policy, None, sources_of(source_batch(2, 5)), 2, options)
