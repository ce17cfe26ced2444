"""What `generate` takes beside an exit policy: served as transformers does, or refused by name."""

import inspect
import json
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from transformers import (
    ByT5Tokenizer,
    GenerationConfig,
    LongT5ForConditionalGeneration,
    MaxLengthCriteria,
    MT5ForConditionalGeneration,
    StoppingCriteriaList,
    T5ForConditionalGeneration,
    UMT5ForConditionalGeneration,
)

from early_exit import DecodingSetting, ExitPolicy
from early_exit.models.loading import load_model
from early_exit.models.t5 import MODEL_CLASSES
from tests.tiny import FAMILIES, MODELS, source_batch, tiny_model

FULL_DEPTH, INPUTS = ExitPolicy(), source_batch(3, 9)
EXITS = ExitPolicy(measure="softmax", threshold=0.1)
STOCK = {
    "t5": T5ForConditionalGeneration,
    "mt5": MT5ForConditionalGeneration,
    "umt5": UMT5ForConditionalGeneration,
    "longt5": LongT5ForConditionalGeneration,
}
REFUSED = {
    "num_beams": 2,
    "penalty_alpha": 0.6,
    "prompt_lookup_num_tokens": 3,
    "assistant_model": MODELS["t5"],
    "assistant_early_exit": 2,
    "dola_layers": "low",
    "guidance_scale": 1.5,
    "token_healing": True,
    "past_key_values": object(),
    "decoder_inputs_embeds": torch.zeros(3, 1, 32),
    "decoder_attention_mask": torch.tensor([[0, 1]] * 3),
    "cache_implementation": "static",
    "negative_prompt_ids": torch.zeros(3, 1, dtype=torch.long),
}


@pytest.mark.parametrize("name", REFUSED)
def test_other_loops_are_refused_by_name(name):
    with pytest.raises(ValueError, match=name):
        MODELS["t5"].generate(**INPUTS, max_new_tokens=3, exit_policy=FULL_DEPTH, **{name: REFUSED[name]})


@pytest.mark.parametrize("name", ["num_beams", "penalty_alpha", "prompt_lookup_num_tokens"])
@pytest.mark.parametrize("positional", [True, False])
def test_a_generation_config_is_looked_at_wherever_it_comes_from(name, positional):
    config = GenerationConfig(**{name: REFUSED[name], "max_new_tokens": 3, "decoder_start_token_id": 0})
    args, named = ((None, config), {}) if positional else ((), {"generation_config": config})
    with pytest.raises(ValueError, match=name):
        MODELS["t5"].generate(*args, **INPUTS, **named, exit_policy=FULL_DEPTH)
    model = tiny_model()
    setattr(model.generation_config, name, REFUSED[name])
    with pytest.raises(ValueError, match=name):
        model.generate(**INPUTS, max_new_tokens=3, exit_policy=FULL_DEPTH)


class _Noted:
    """A streamer that notes its calls."""

    def __init__(self):
        self.calls = []

    def put(self, tokens):
        self.calls.append(tokens.tolist())

    def end(self):
        self.calls.append("end")


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("options", [{}, {"eos_token_id": list(range(2, 60))}, {"no_repeat_ngram_size": 1}])
def test_streams_are_those_of_transformers(rows, options):
    streams = _Noted(), _Noted()
    options = {**source_batch(rows, 9), "max_new_tokens": 7, **options}
    MODELS["t5"].generate(**options, streamer=streams[0])
    MODELS["t5"].generate(**options, streamer=streams[1], exit_policy=FULL_DEPTH)
    assert streams[0].calls == streams[1].calls


def test_streams_of_exits_are_the_text():
    stream = _Noted()
    text = MODELS["t5"].generate(**source_batch(1, 9), max_new_tokens=7, streamer=stream, exit_policy=EXITS)
    assert [*stream.calls[0][0], *(token for [token] in stream.calls[1:-1])] == text[0].tolist()


def test_stop_strings_stop():
    model, tokenizer, inputs = MODELS["t5"], ByT5Tokenizer(), source_batch(3, 9)
    text = model.generate(**inputs, max_new_tokens=12)
    stop = [tokenizer.decode(row[place : place + 2]) for row, place in zip(text, (4, 6, 9), strict=True)]
    stop = [each for each in stop if each]
    options = {**inputs, "max_new_tokens": 12, "stop_strings": stop, "tokenizer": tokenizer}
    expected = model.generate(**options)
    assert not torch.equal(expected, text)
    assert torch.equal(model.generate(**options, exit_policy=FULL_DEPTH), expected)
    config = GenerationConfig(stop_strings=stop, max_new_tokens=12, decoder_start_token_id=0, eos_token_id=1)
    options = {**inputs, "tokenizer": tokenizer, "generation_config": config}
    expected = model.generate(**options)
    assert torch.equal(model.generate(**options, exit_policy=FULL_DEPTH), expected)
    with pytest.raises(ValueError, match="tokenizer"):
        model.generate(**inputs, stop_strings=stop, exit_policy=FULL_DEPTH)


@pytest.mark.parametrize("limit", [1, 4, 30])
@pytest.mark.parametrize("options", [{}, {"no_repeat_ngram_size": 2}])
def test_a_criterion_of_length_stands_in_the_place_of_the_config(limit, options):
    criteria = StoppingCriteriaList([MaxLengthCriteria(limit)])
    options = {
        **source_batch(3, 9),
        "max_length": 15,
        "stopping_criteria": criteria,
        "eos_token_id": None,
    } | options
    expected = MODELS["t5"].generate(**options)
    assert torch.equal(MODELS["t5"].generate(**options, exit_policy=FULL_DEPTH), expected)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("padded", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_row_that_is_all_padding_decodes_as_in_transformers(family, padded, seed):
    inputs = source_batch(3, 9, seed)
    inputs["input_ids"][1] = 0 if padded else inputs["input_ids"][0].flip(0)
    inputs["attention_mask"][1] = 0
    expected = MODELS[family].generate(**inputs, max_new_tokens=8)
    assert torch.equal(MODELS[family].generate(**inputs, max_new_tokens=8, exit_policy=FULL_DEPTH), expected)


def test_padding_may_be_anywhere():
    inputs = source_batch(3, 9)
    inputs["attention_mask"] = torch.tensor(
        [[0, 0, 1, 1, 1, 1, 0, 1, 1], [1] * 9, [0, 1, 0, 1, 0, 1, 0, 1, 0]]
    )
    expected = MODELS["t5"].generate(**inputs, max_new_tokens=8)
    assert torch.equal(MODELS["t5"].generate(**inputs, max_new_tokens=8, exit_policy=FULL_DEPTH), expected)


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_autocast_around_the_engine_changes_nothing(precision):
    options = {**INPUTS, "max_new_tokens": 6, "exit_policy": EXITS, "engine_precision": precision}
    expected = MODELS["t5"].generate(**options)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(MODELS["t5"].generate(**options), expected)


def test_outputs_can_be_pickled():
    policy = ExitPolicy(measure="softmax", threshold=0.2, top_k=4)
    for exit_policy in (FULL_DEPTH, EXITS, policy):
        output = MODELS["t5"].generate(
            **INPUTS, max_new_tokens=6, exit_policy=exit_policy, return_dict_in_generate=True
        )
        again = pickle.loads(pickle.dumps(output))
        assert torch.equal(again.sequences, output.sequences)
        if output.kept is not None:
            assert again.kept() == output.kept()


@pytest.mark.parametrize("output", ["output_scores", "output_logits", "output_attentions"])
def test_outputs_that_exits_lack_are_refused(output):
    options = {"return_dict_in_generate": True, output: True, "max_new_tokens": 3}
    with pytest.raises(ValueError, match=output):
        MODELS["t5"].generate(**INPUTS, **options, exit_policy=FULL_DEPTH)


@pytest.mark.slow
def test_threads_share_a_model():
    """Mixed precisions and policies, transformers' own decoding among them, each as it is alone."""
    model = tiny_model()
    calls = [
        {"exit_policy": policy, "engine_precision": precision}
        for policy in (
            FULL_DEPTH,
            EXITS,
            ExitPolicy(measure="MLP", threshold=0.3),
            ExitPolicy(static_layer=2),
        )
        for precision in ("float32", "int8", "bfloat16")
    ] + [{"exit_policy": None}] * 4
    inputs = [source_batch(2, 9, seed) for seed in range(3)]
    jobs = [(call, batch) for call in calls for batch in inputs] * 2
    expected = []
    for call in calls:
        alone = tiny_model()
        expected += [alone.generate(**batch, **call, max_new_tokens=6) for batch in inputs]
    barrier = threading.Barrier(4)

    def work(job):
        call, batch = job
        return model.generate(**batch, **call, max_new_tokens=6)

    with ThreadPoolExecutor(4, initializer=barrier.wait) as pool:
        found = list(pool.map(work, jobs))
    for text, own in zip(found, expected * 2, strict=True):
        assert torch.equal(text, own)


@pytest.mark.parametrize("kind", MODEL_CLASSES)
def test_forward_has_the_stock_signature(kind):
    """Names, order and kinds; ours behind, by name only."""
    stock = list(inspect.signature(STOCK[kind].forward).parameters.values())
    own = list(inspect.signature(MODEL_CLASSES[kind].forward).parameters.values())
    assert own[: len(stock) - 1] == stock[:-1]
    assert own[-1] == stock[-1]
    added = own[len(stock) - 1 : -1]
    assert {parameter.name for parameter in added} == {
        "exit_loss",
        "exit_head_loss",
        "exit_adapter_loss",
        "num_items_in_batch",
    }
    assert all(parameter.kind is parameter.KEYWORD_ONLY for parameter in added)


def test_positional_arguments_are_those_of_the_stock_class():
    model, prefix = MODELS["t5"], torch.zeros(3, 2, dtype=torch.long)
    by_name = model(**INPUTS, decoder_input_ids=prefix).logits
    assert torch.equal(model(INPUTS["input_ids"], INPUTS["attention_mask"], prefix).logits, by_name)


@pytest.mark.parametrize("where", ["call", "config"])
@pytest.mark.parametrize("cache", ["static", "dynamic"])
def test_a_cache_may_be_chosen_on_the_default_path(where, cache):
    sizes = {"num_decoder_layers": 2, "num_layers": 2}
    config = MODELS["t5"].config.__class__(**{**MODELS["t5"].config.to_diff_dict(), **sizes})
    model = MODEL_CLASSES["t5"](config).eval()
    expected = model.generate(**INPUTS, max_new_tokens=6)
    options = {"cache_implementation": cache} if where == "call" else {}
    if where == "config":
        model.generation_config.cache_implementation = cache
    assert torch.equal(model.generate(**INPUTS, max_new_tokens=6, **options), expected)


def test_the_joint_loss_takes_embeddings_and_masks():
    model, labels = MODELS["t5"], torch.randint(2, 97, (3, 5))
    prefix = model._shift_right(labels)
    expected = model(**INPUTS, labels=labels, exit_loss="weighted_ce").loss
    embedded = model(
        inputs_embeds=model.shared(INPUTS["input_ids"]),
        attention_mask=INPUTS["attention_mask"],
        decoder_inputs_embeds=model.shared(prefix),
        decoder_attention_mask=torch.ones_like(prefix),
        labels=labels,
        exit_loss="weighted_ce",
    ).loss
    torch.testing.assert_close(embedded, expected)
    mask = torch.tensor([[1, 1, 0, 1, 1]] * 3)
    masked = {"decoder_attention_mask": mask, "labels": labels}
    stock = model(**INPUTS, **masked).loss
    torch.testing.assert_close(model(**INPUTS, **masked, exit_loss="last_ce").loss, stock)
    assert not torch.isclose(stock, model(**INPUTS, labels=labels).loss)
    with pytest.raises(ValueError, match="past_key_values"):
        model(**INPUTS, labels=labels, exit_loss="weighted_ce", past_key_values=object())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("saved", [True, False])
def test_exit_heads_belong_to_a_model_in_every_type(dtype, saved, tmp_path):
    model = tiny_model().to(dtype)
    if saved:
        model.save_pretrained(tmp_path)
        model = load_model(str(tmp_path))
    model.check_exit_heads("MLP")
    model.float().check_exit_heads("MLP")
    with torch.no_grad():
        model.shared.weight.mul_(1.5)
    with pytest.raises(ValueError, match="other weights"):
        model.check_exit_heads("MLP")


@pytest.mark.parametrize("family", ["t5", "mt5", "umt5", "longt5"])
def test_a_saved_configuration_names_the_plain_class(family, tmp_path):
    MODELS[family].save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    assert saved["architectures"] == [STOCK[family].__name__]
    assert sorted(saved["exit_heads"]) == sorted(MODELS[family].config.exit_heads)
    assert type(load_model(str(tmp_path))) is MODEL_CLASSES[family]


@pytest.mark.parametrize("given", ["fast", 0.9, DecodingSetting(), {"threshold": 0.9}], ids=repr)
def test_what_is_no_policy_is_refused(given):
    with pytest.raises(ValueError, match=r"exit_policy .*: allowed: an ExitPolicy, None and 'calibrated'"):
        MODELS["t5"].generate(**INPUTS, exit_policy=given)
