"""A model with a certified setting: which calls its guarantee covers, which of them it serves."""

import json
import warnings
from contextlib import suppress

import pytest
import torch
from transformers import (
    ByT5Tokenizer,
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    MaxLengthCriteria,
    StoppingCriteriaList,
)
from transformers.generation import TextStreamer

from early_exit import DecodingSetting, ExitPolicy
from early_exit.models.calibrated import Certified
from early_exit.models.calibration_file import certified_of, read_certified
from early_exit.models.effective_generation import effective_generation
from early_exit.models.exit_heads import fingerprint
from early_exit.models.generation import early_exit_generate
from early_exit.models.loading import load_model
from tests.tiny import source_batch, tiny_model

INPUTS, LENGTH = source_batch(3, 9), 8
POLICY = ExitPolicy(measure="softmax", threshold=0.1, min_layer=1)
TEXTS = {"return_dict_in_generate": True}


def certified_model(**generation):
    """generation: of the checkpoint's generation config, when it was calibrated."""
    model = tiny_model()
    for name, value in generation.items():
        setattr(model.generation_config, name, value)
    effective = effective_generation(model, {"max_length": LENGTH})
    certified = Certified(DecodingSetting(POLICY, "float32"), fingerprint(model), LENGTH, effective)
    model.config.exit_calibration = json.loads(json.dumps(certified.to_dict()))
    return model


MODEL = certified_model()


def warned(model, *args, **options):
    """The output and the warnings of this project, as one text."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        output = model.generate(*args, **INPUTS, **options)
    ours = [str(each.message) for each in caught if "calibrated" in str(each.message)]
    return output, "\n".join(ours)


def sequences(output):
    return output if isinstance(output, torch.Tensor) else output.sequences


class _Nothing(LogitsProcessor):
    def __call__(self, input_ids, scores):
        return scores


UNCOVERED = {
    "max_length": 5,
    "max_new_tokens": 3,
    "min_length": 6,
    "min_new_tokens": 4,
    "do_sample": True,
    "repetition_penalty": 1.5,
    "encoder_repetition_penalty": 1.5,
    "no_repeat_ngram_size": 2,
    "encoder_no_repeat_ngram_size": 2,
    "suppress_tokens": [5, 6],
    "begin_suppress_tokens": [7],
    "bad_words_ids": [[5], [6, 7]],
    "sequence_bias": {(5,): -10.0},
    "max_time": 100.0,
    "forced_bos_token_id": 9,
    "forced_eos_token_id": 1,
    "eos_token_id": [1, 5],
    "exponential_decay_length_penalty": (2, 1.5),
    "renormalize_logits": True,
    "remove_invalid_values": True,
    "decoder_start_token_id": 3,
    "decoder_input_ids": torch.tensor([[0, 5]] * 3),
    "logits_processor": LogitsProcessorList([_Nothing()]),
    "stopping_criteria": StoppingCriteriaList([MaxLengthCriteria(4)]),
    "prefix_allowed_tokens_fn": lambda batch, tokens: [5, 6],
    "stop_strings": ["a"],
    "watermarking_config": {"bias": 2.0, "seeding_scheme": "selfhash"},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", UNCOVERED)
@pytest.mark.parametrize("where", ["option", "config"])
def test_what_changes_tokens_warns_by_name_and_still_exits(name, where):
    value = UNCOVERED[name]
    more = {"tokenizer": ByT5Tokenizer()} if name == "stop_strings" else {}
    arguments = ("decoder_input_ids", "logits_processor", "stopping_criteria", "prefix_allowed_tokens_fn")
    if where == "config":
        if name in arguments:
            pytest.skip("no field of a generation config")
        special = {"decoder_start_token_id": 0, "eos_token_id": 1, "pad_token_id": 0}
        options = {"generation_config": GenerationConfig(**special | TEXTS | {name: value})}
    else:
        options = {name: value, **TEXTS}
    output, text = warned(MODEL, **options, **more)
    assert "guarantee does not hold" in text
    told = {"max_new_tokens": "max_length", "min_new_tokens": "min_length"}.get(name, name)
    assert told in text
    assert (output.exit_layers[output.exit_layers > 0] < 4).any()


COVERED = {
    "nothing": {},
    "the same maximum": {"max_length": LENGTH},
    "the same, in new tokens": {"max_new_tokens": LENGTH - 1},
    "defaults": {"num_beams": 1, "do_sample": False, "repetition_penalty": 1.0, "min_length": 0},
    "what sampling reads": {"temperature": 0.3, "top_k": 3, "top_p": 0.2},
    "what beams read": {"length_penalty": 2.0, "early_stopping": True},
    "a cache flag": {"use_cache": False},
    "the start token": {"decoder_input_ids": torch.zeros(3, 1, dtype=torch.long)},
    "a mask that keeps all": {
        "decoder_input_ids": torch.zeros(3, 1, dtype=torch.long),
        "decoder_attention_mask": torch.ones(3, 1, dtype=torch.long),
    },
    "the special tokens": {"eos_token_id": 1, "pad_token_id": 0},
    "empty lists": {"logits_processor": LogitsProcessorList(), "stopping_criteria": StoppingCriteriaList()},
    "the calibrated precision": {"engine_precision": "float32"},
}


@pytest.mark.parametrize("name", COVERED)
def test_what_changes_no_token_does_not_warn(name):
    expected = MODEL.generate(**INPUTS, exit_policy=POLICY, max_length=LENGTH, **TEXTS)
    output, text = warned(MODEL, **COVERED[name], **TEXTS)
    assert text == ""
    assert torch.equal(output.sequences, expected.sequences)
    assert torch.equal(output.exit_layers, expected.exit_layers)


def test_a_checkpoints_own_generation_config_is_what_was_calibrated():
    model = certified_model(no_repeat_ngram_size=2, min_length=5)
    assert warned(model)[1] == ""
    assert "no_repeat_ngram_size 0 instead of 2" in warned(model, no_repeat_ngram_size=0)[1]
    model.generation_config.no_repeat_ngram_size = 3
    assert "no_repeat_ngram_size 3 instead of 2" in warned(model)[1]


def own_loop(model, input_ids, logits_processor, stopping_criteria, generation_config, **kwargs):
    """A loop that a user brings along."""
    return torch.cat([input_ids, input_ids.new_full((len(input_ids), 2), 7)], dim=1)


FALLS_BACK = {
    "num_beams": {"num_beams": 3},
    "penalty_alpha": {"penalty_alpha": 0.6, "top_k": 4},
    "prompt_lookup_num_tokens": {"prompt_lookup_num_tokens": 2},
    "output_scores": {"output_scores": True, **TEXTS},
    "output_logits": {"output_logits": True, **TEXTS},
    "output_attentions": {"output_attentions": True, **TEXTS},
    "custom_generate": {"custom_generate": own_loop},
    "decoder_attention_mask": {
        "decoder_input_ids": torch.tensor([[0, 5]] * 3),
        "decoder_attention_mask": torch.tensor([[0, 1]] * 3),
    },
}


@pytest.mark.parametrize("name", FALLS_BACK)
def test_what_exits_do_not_serve_gets_the_full_model_with_a_warning(name):
    options = dict(FALLS_BACK[name])
    if name in ("penalty_alpha", "prompt_lookup_num_tokens"):
        # Loops that fetch code, or want one row: it is enough that they are asked for.
        with pytest.warns(UserWarning, match=rf"{name}.*the full model decodes"), suppress(Exception):
            MODEL.generate(**INPUTS, **options)
        return
    output, text = warned(MODEL, **options, max_length=LENGTH)
    assert text.count("the full model decodes") == 1
    assert name in text
    expected = MODEL.generate(**INPUTS, **options, max_length=LENGTH, exit_policy=None)
    assert torch.equal(sequences(output), sequences(expected))
    assert not hasattr(output, "exit_layers")


@pytest.mark.parametrize("positional", [True, False])
def test_a_generation_config_with_beams_falls_back(positional):
    special = {"decoder_start_token_id": 0, "eos_token_id": 1, "pad_token_id": 0}
    config = GenerationConfig(num_beams=3, max_length=6, **special)
    args, named = ((None, config), {}) if positional else ((), {"generation_config": config})
    output, text = warned(MODEL, *args, **named)
    assert "beam search (num_beams=3): the full model decodes" in text
    assert torch.equal(output, MODEL.generate(*args, **INPUTS, **named, exit_policy=None))
    model = certified_model()
    model.generation_config.num_beams = 3
    output, text = warned(model, max_length=6)
    assert "beam search (num_beams=3)" in text
    assert torch.equal(output, MODEL.generate(**INPUTS, max_length=6, num_beams=3, exit_policy=None))


def test_this_projects_loop_by_name_keeps_the_certified_policy():
    output, text = warned(MODEL, custom_generate=early_exit_generate, **TEXTS)
    assert text == ""
    assert torch.equal(output.sequences, warned(MODEL, **TEXTS)[0].sequences)
    assert (output.exit_layers < 4).any()


def test_streamers_are_served(capsys):
    stream = TextStreamer(ByT5Tokenizer())
    one = {name: value[:1] for name, value in INPUTS.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        output = MODEL.generate(**one, streamer=stream, **TEXTS)
    assert (output.exit_layers < 4).any()
    assert ByT5Tokenizer().decode(output.sequences[0]).strip() in capsys.readouterr().out


# `config.exit_calibration` as earlier versions wrote it.
FIRST = {
    "measure": "softmax",
    "threshold": 0.1,
    "min_layer": 1,
    "position_temperature": None,
    "precision": "float32",
    "max_length": LENGTH,
}
WRITTEN = {
    "without top_k and screen": FIRST,
    "with them": {**FIRST, "top_k": None, "screen": False},
    "with screen": {**FIRST, "top_k": None, "screen": True},
}


@pytest.mark.slow
@pytest.mark.parametrize("saved", [False, True])
@pytest.mark.parametrize("version", WRITTEN)
def test_a_configuration_of_an_earlier_version_generates(version, saved, tmp_path):
    model = tiny_model()
    expected = model.generate(**INPUTS, exit_policy=POLICY, max_length=LENGTH, **TEXTS)
    model.config.exit_calibration = {**WRITTEN[version], "weights": fingerprint(model)}
    if saved:
        model.save_pretrained(tmp_path)
        model = load_model(str(tmp_path)).eval()
    output, text = warned(model, **TEXTS)
    assert text == ""
    assert torch.equal(output.sequences, expected.sequences)
    assert torch.equal(output.exit_layers, expected.exit_layers)
    assert "min_length 5 instead of 0" in warned(model, min_length=5)[1]
    assert "weights are not those" in warned(_changed(model))[1]


def _changed(model):
    with torch.no_grad():
        model.shared.weight.mul_(1.5)
    return model


def test_an_earlier_configuration_beside_a_generation_config_that_it_does_not_name():
    model = tiny_model()
    model.config.exit_calibration = {**FIRST, "weights": fingerprint(model)}
    model.generation_config.no_repeat_ngram_size = 2  # whether that was so then is not known
    assert "no_repeat_ngram_size 2 instead of 0" in warned(model)[1]


def without(missing):
    return {name: value for name, value in {**FIRST, "weights": "a"}.items() if name != missing}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({**FIRST, "weights": "a", "drafts": 3}, "drafts"),
        (without("precision"), "precision"),
        (without("max_length"), "max_length"),
        ({**Certified(DecodingSetting(POLICY), "a", 8).to_dict(), "version": 9}, "version 9"),
        ({**FIRST, "weights": "a", "measure": "magic"}, "magic"),
    ],
)  # fmt: skip
def test_a_configuration_that_this_code_does_not_know_is_named(values, message):
    model = tiny_model()
    model.config.exit_calibration = values
    with pytest.raises(ValueError, match=message):
        model.generate(**INPUTS)


def test_what_is_certified_goes_through_json():
    setting = DecodingSetting(POLICY, "int8")
    certified = Certified(setting, "abc", 12, {"max_length": 12}, 0.1, 0.05, "textual rouge", 30, "f")
    assert Certified.from_dict(json.loads(json.dumps(certified.to_dict()))) == certified
    assert certified_of({"exit_calibration": certified.to_dict()}) == certified
    assert certified_of({"exit_calibration": None}) is None


def test_of_an_earlier_file_the_first_delta_is_deployed_and_full_depth_never():
    def entry(delta, certified, threshold):
        setting = DecodingSetting(ExitPolicy(measure="softmax", threshold=threshold)).to_dict()
        return {"delta": delta, "certified": certified, "setting": setting, "epsilon": 0.05, "n": 9}

    common = {
        "pipeline": {"weights": "a", "max tokens": 8}, "consistency": "textual", "loss": "rouge",
        "fingerprint": "f",
    }  # fmt: skip
    assert certified_of({**common, "deltas": [entry(0.1, False, 0.9), entry(0.2, True, 0.5)]}) is None
    assert certified_of({**common, "deltas": [entry(0.1, True, 0.9), entry(0.2, True, 0.5)]}).delta == 0.1
    assert certified_of({**common, "deltas": [entry(0.1, True, 1.0)]}) is None
    deep = Certified(DecodingSetting(ExitPolicy(measure="softmax", threshold=1.0)), "a", 8)
    assert certified_of({"exit_calibration": deep.to_dict()}) is None


@pytest.mark.parametrize(
    "content", ['{"deltas": []}', '{"exit_calibration": []}', "[]", "1", '{"deltas": [[]]}']
)
def test_files_that_hold_no_calibration_are_refused(tmp_path, content):
    (tmp_path / "calibration.json").write_text(content)
    with pytest.raises(ValueError, match="holds no calibration that this code reads"):
        read_certified(tmp_path)
